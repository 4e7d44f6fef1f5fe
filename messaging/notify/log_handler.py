"""Log records as notifications: a logging.Handler that hands records to a notifier and never waits.

A record is encoded by the thread that logs and posted to the connection's owner, which is all that a notification needs
to be on its way; so there is no queue and no thread of its own here, only a bound on how many are under way. Beyond it
records are dropped and counted. Records of this library's own loggers are ignored, because sending them would make more
of them.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Sequence
from typing import Any

from messaging.counters import Tally
from messaging.errors import ConfigError, MessagingError
from messaging.in_flight import InFlight
from messaging.lifecycle import check_count
from messaging.notify.base_notifier import BaseNotifier, Countdown, Sent
from messaging.transport import BaseTransport

__all__ = ["LogHandler"]

_LEVELS = ((logging.CRITICAL, "critical"), (logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"))
_PLAIN = (str, int, float, bool, type(None))
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
_OWN_LOGGERS = "messaging"


class LogHandler(logging.Handler):
    """Sends records as notifications of type `event_type`, each at the level that fits its own. Thread-safe.

    `to`: a notifier, or a transport, for which one is made with `publisher_id` and `topics`; one for asyncio must be in
    use in its loop already. `limit`: how many records
    may be under way; more are dropped. `flush_timeout`: seconds for which flush() and close() wait for those. `dropped`
    and `failed` count the records that nobody got to see. The payload has the predecessor's keys: name, levelno,
    levelname, exc_info, pathname, lineno, msg, funcName, thread, processName, process and extra. Raises ConfigError.
    """

    def __init__(
        self,
        to: BaseNotifier | BaseTransport,
        *,
        publisher_id: str | None = None,
        topics: Sequence[str] = ("notifications",),
        event_type: str = "logrecord",
        level: int | str = logging.NOTSET,
        limit: int = 1_000,
        flush_timeout: float = 5.0,
    ) -> None:
        super().__init__(level)
        check_count("limit", limit)
        if not 0 <= flush_timeout < float("inf"):
            raise ConfigError(f"flush_timeout must be a finite number of seconds from 0, not {flush_timeout!r}")
        self._notifier = to if isinstance(to, BaseNotifier) else BaseNotifier(to, publisher_id, topics)
        self._event_type = event_type
        self._under_way = InFlight(limit)
        self._flush_timeout = flush_timeout
        self._flushing = threading.Lock()
        self._busy = threading.local()
        self._dropped = Tally()
        self._failed = Tally()

    @property
    def dropped(self) -> int:
        """How many records were not sent, because `limit` of them were under way or the transport was closed."""
        return int(self._dropped)

    @property
    def failed(self) -> int:
        """How many records were sent in vain."""
        return int(self._failed)

    def handle(self, record: logging.LogRecord) -> bool:
        """Send a record, unless it is one of this library's own, or was logged while another one was being sent."""
        # Before the handler's lock is taken: a thread of ours may log while it holds a lock that emit() needs.
        if (
            record.name == _OWN_LOGGERS
            or record.name.startswith(f"{_OWN_LOGGERS}.")
            or getattr(self._busy, "now", False)
        ):
            return False
        return bool(super().handle(record))

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler; called with the handler's lock held."""
        self._busy.now = True
        try:
            if not self._under_way.try_begin():
                self._dropped.add()
                return
            outcome: list[Sent] = []
            # The news may overtake the return of _start; whichever comes second tells.
            steps = Countdown(2, lambda: self._ended(outcome))
            try:
                level = next((name for bound, name in _LEVELS if record.levelno >= bound), "debug")
                event = self._notifier._event(level, None, self._event_type, _payload(record), None)
                outcome.append(self._notifier._start(event, None, steps))
            except BaseException:
                self._under_way.ended()
                raise
            steps()
        except MessagingError:
            self._dropped.add()
        except Exception:  # logging's own way: a handler never raises into the code that logs
            self.handleError(record)
        finally:
            self._busy.now = False

    def _ended(self, outcome: list[Sent]) -> None:
        # Taken out: what wakes a sending must not lead back to it, or every record stays.
        sent = outcome.pop()
        if sent.errors or any(sending.error is not None for sending in sent.sendings):
            self._failed.add()
        self._under_way.ended()

    def flush(self) -> None:
        """Wait until what was sent has its outcome, at most `flush_timeout` seconds; not on the thread that does the
        I/O.
        """
        if self._on_owner():
            return
        with self._flushing:
            self._under_way.wait(self._flush_timeout)

    def _on_owner(self) -> bool:
        return any(reactor.is_owner() for reactor in self._notifier.transport._reactors())

    def close(self) -> None:
        """Flush, and take no more records. The transport stays open; it is the caller's."""
        self.flush()
        super().close()


def _payload(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "levelno": record.levelno,
        "levelname": record.levelname,
        "exc_info": "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else None,
        "pathname": record.pathname,
        "lineno": record.lineno,
        "msg": record.getMessage(),
        "funcName": record.funcName,
        "thread": record.thread,
        "processName": record.processName,
        "process": record.process,
        "extra": {
            name: value if isinstance(value, _PLAIN) else repr(value)
            for name, value in vars(record).items()
            if name not in _STANDARD
        },
    }
