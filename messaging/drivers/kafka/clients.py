"""Clients of the library: made, asked one question, and given back, without a word of theirs getting lost or loud.

Whatever blocks is a plain function here, for `services.offload`. Callbacks of the library only write down; an exception
in one of them would come out of whatever happens to poll.

A fork copies a client without its threads: using it would hang, and so would freeing it at the child's exit. So a
child that inherits clients may use nothing of Kafka, and never frees them.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from messaging.drivers.kafka.reasons import code_of, explained, is_login, is_outage, of_connection
from messaging.errors import ConfigError, ConnectFailed, Forked

__all__ = ["CAP", "Log", "Troubles", "ask", "check_fork", "client_id", "dispose", "make_consumer", "make_producer"]

CAP = 0.01
"""Seconds for which the library may wait: it cannot be woken."""

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)
_process = 0
"""The process that has made clients; 0: none has."""
_clients: weakref.WeakSet[Any] = weakref.WeakSet()
_STEP = 0.02
"""Seconds between two looks at the library's news while a question is under way."""


class _Producer(Producer):
    """The library's, with weak references, and without the exception that it raises for a fatal error: of those it
    tells nobody else.
    """

    def __init__(self, conf: dict[str, Any]) -> None:
        super().__init__(conf)
        self._note = conf["error_cb"]

    def poll(self, timeout: float = -1) -> int:
        try:
            return super().poll(timeout)
        except KafkaException as error:
            self._note(error.args[0])
            return 0


class _Consumer(Consumer):
    """The library's, with weak references."""


class _AdminClient(AdminClient):
    """The library's, with weak references."""


def client_id(name: str, role: str) -> str:
    """A name for one client of this process, as the broker's log shows it."""
    return f"{name}-{role}-{os.getpid()}-{next(_numbers)}"


def check_fork() -> None:
    """Refuse a process that was forked from one with Kafka clients. Raises Forked."""
    if _process and _process != os.getpid():
        raise Forked(
            "this process was forked from one that uses kafka://, whose client library does not survive a fork; start "
            'processes by spawn (multiprocessing.set_start_method("spawn")), or fork before kafka:// is used'
        )


class Log:
    """Takes the library's log lines to Python's logging; whatever goes wrong there stays there."""

    def log(self, level: int, template: str, *arguments: Any) -> None:
        """Called by the library while it is polled."""
        try:
            # What the library calls failures are outages that it cures by itself; our states tell of them.
            outage = bool(arguments) and arguments[0] == "FAIL"
            _log.log(logging.DEBUG if outage else min(level, logging.INFO), template, *arguments)
        except Exception:  # a filter or handler of the user's
            return


class Troubles:
    """What the library tells of its brokers, written down until somebody looks."""

    __slots__ = ("_said", "_unconnected", "fatal", "news")

    def __init__(self) -> None:
        self.fatal = False
        """The client is of no use any more: an idempotent producer that cannot tell what was stored."""
        self.news: deque[KafkaError] = deque()
        self._said = ""
        self._unconnected = False

    def note(self, error: KafkaError) -> None:
        """Called by the library while it is polled."""
        self.fatal = self.fatal or error.fatal()
        if error.code() == KafkaError._TRANSPORT or error.code() == KafkaError._RESOLVE:
            self._said = explained(str(error.str()))
            self._unconnected = True
        self.news.append(error)

    def suspect(self) -> None:
        """A message got no answer for as long as the library waits: perhaps nobody is there. Any thread."""
        self._unconnected = True

    def outage(self) -> ConnectFailed | None:
        """Take the news: why no broker is connected, or None where that was not said."""
        found: ConnectFailed | None = None
        while self.news:
            error = self.news.popleft()
            if is_login(error):
                return of_connection(error)
            if error.code() == KafkaError._SSL:
                self._said = explained(str(error.str()))
            if is_outage(error) or error.fatal():
                found = of_connection(error, self._said)
        return found

    def doubt(self) -> bool:
        """Take the news that some broker could not be connected, or did not answer, if there are any."""
        found, self._unconnected = self._unconnected, False
        return found


def _made(kind: Callable[..., Any], conf: dict[str, Any], troubles: Troubles) -> Any:
    global _process
    check_fork()
    try:
        client = kind(conf | {"error_cb": troubles.note, "logger": Log()})
    except (KafkaException, ValueError) as error:
        told = code_of(error)
        raise ConfigError(
            f"the Kafka client library does not take these options: {told.str() if told is not None else error}"
        ) from None
    _process = os.getpid()
    _clients.add(client)
    return client


def make_producer(conf: dict[str, Any], troubles: Troubles) -> Producer:
    """Make a producer. Raises ConfigError, Forked."""
    return _made(_Producer, conf, troubles)  # type: ignore[no-any-return]


def make_consumer(conf: dict[str, Any], troubles: Troubles) -> Consumer:
    """Make a consumer that has not joined its group yet. Raises ConfigError, Forked."""
    return _made(_Consumer, conf, troubles)  # type: ignore[no-any-return]


def ask(conf: dict[str, Any], question: Callable[[AdminClient], dict[Any, Any]], timeout: float) -> dict[Any, Any]:
    """Ask the cluster something over a client of its own; blocks.

    `question` returns futures by name; so does this, when all of them are done. Raises ConnectFailed as soon as no
    broker can be reached, AuthFailed, ConfigError.
    """
    troubles = Troubles()
    admin = _made(_AdminClient, conf, troubles)
    try:
        until = time.monotonic() + timeout
        futures = question(admin)
        while not all(future.done() for future in futures.values()):
            admin.poll(_STEP)
            failure = troubles.outage()
            if failure is not None:
                raise failure
            if time.monotonic() > until:
                raise ConnectFailed(f"no Kafka broker answered within {timeout:g} s (option connect_timeout)")
        return futures
    finally:
        del admin


def dispose(holder: list[Any]) -> None:
    """Free the one client in a list; blocks, at the longest as long as the library's threads do.

    A list, because the last reference decides on which thread that happens.
    """
    client = holder.pop()
    try:
        if isinstance(client, Consumer):
            client.close()
        elif isinstance(client, Producer):
            client.purge(blocking=False)
    except (KafkaException, RuntimeError) as error:
        _log.info("a Kafka client did not close cleanly: %s", error)
    del client


def _keep_inherited() -> None:
    """In a forked child: never free what belongs to the parent's threads."""
    inherited = list(_clients)
    if inherited:
        import ctypes  # only a child with inherited clients needs it

        for client in inherited:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))


os.register_at_fork(after_in_child=_keep_inherited)
