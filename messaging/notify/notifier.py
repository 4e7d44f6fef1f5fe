"""The blocking notifier: a caller waits on one raw lock until every topic has its outcome, and by its own clock."""

from __future__ import annotations

import concurrent.futures
from _thread import allocate_lock
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from messaging.around import enter
from messaging.errors import Cancelled, MessagingError, StateError
from messaging.notify.base_notifier import BaseNotifier, Sent
from messaging.notify.base_pipeline import LIMIT
from messaging.notify.event import Event
from messaging.notify.pipeline import Pipeline, submit
from messaging.notify.verbs import Verbs
from messaging.transport import Transport

__all__ = ["Notifier"]


class Notifier(BaseNotifier, Verbs[None]):
    """A blocking notifier; thread-safe. Its verbs are the levels: audit, debug, info, warn (or warning), error,
    critical and sample.

    A verb returns when the notification is stored, or, where the transport has no storage, when every pool that listens
    has queued it. It raises what went wrong, with `.delivered`: NoRoute, DeadlineExceeded, ConnectionLost, ...; with
    several topics or sinks PipelineFailed, which names each; EncodeError and TooLarge before anything is sent;
    StateError on the thread that does the transport's I/O, which would wait for itself. Parameters: see BaseNotifier.
    """

    transport: Transport
    _face = Transport

    def notify(
        self,
        level: str,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Send a notification of a level given by name. Notifications of one `key` keep their order where the transport
        can.
        """
        event = self._event(level, ctxt, event_type, payload, headers)
        if not self._around:
            self._send(event, key)
            return
        with ExitStack() as stack:
            enter(stack, self._around, event)
            self._send(event, key)

    def submit(
        self,
        level: str,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> concurrent.futures.Future[None]:
        """Start to send and return a Future, which gets None or the error, whatever `on_error` says. Cancelling it
        gives up.
        """
        return submit(self, level, ctxt, event_type, payload, key, headers)

    def pipeline(self, *, limit: int = LIMIT) -> Pipeline:
        """Return a block in which many notifications are sent without waiting; leaving it waits for every outcome.

        Failures are raised together as PipelineFailed, whose members have `.index`, whatever `on_error` says. `limit`:
        how many may be under way; then its verbs wait. A broker that confirms after `s` seconds gets `limit / s` a
        second at most, so one that is far away wants more.
        """
        return Pipeline(self, limit)

    def _send(self, event: Event[Any], key: str | None) -> None:
        try:
            failure = self._failure(self._wait(event, key))
        except MessagingError as error:
            if isinstance(error, StateError) or not self._reportable(error):
                raise
            failure = error
        if failure is not None:
            self._report(event, failure)

    def _wait(self, event: Event[Any], key: str | None) -> Sent:
        if self._uses_transport and self.transport.is_owner():
            raise StateError(
                "a blocking notification on the thread that does this transport's I/O would wait for itself; "
                'run the handler with executor="threads", make it async, or use submit()'
            )
        bell = allocate_lock()
        bell.acquire()
        sent = self._start(event, key, bell.release)
        if not sent.sendings:
            return sent
        clock = sent.sendings[0].session.operations.reactor.clock
        try:
            answered = bell.acquire(timeout=max(0.0, sent.sendings[0].deadline - clock()))
        except BaseException:
            # Ctrl-C, or another signal's exception: this caller goes, the others do not notice.
            self._abandon(sent, lambda sending: Cancelled("the caller was interrupted"))
            raise
        if not answered:
            self._abandon(sent, lambda sending: sending.expired())
            # What somebody else has ended at the same moment rings when he is through: its outcome counts.
            bell.acquire(timeout=1.0)
        return sent
