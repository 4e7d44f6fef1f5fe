"""The way that nearly every notification takes: plain values, to one topic, over the transport and to nothing else.

It does what `BaseNotifier` does for any notification, without an Event for sinks and managers that are not there:
4 us instead of 8. Where anything is out of the ordinary it sends nothing and says so, and the long way is taken; so
what is refused, and how, is written there alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from messaging.message import MESSAGE_ID, Outgoing, Route
from messaging.notify.session import KIND, NotifySession, Sending
from messaging.wire.native import KEY_HEADER, LEVEL_HEADER, VERSION, Kind, Notification

__all__ = ["Direct"]

_NOTIFICATION = int(Kind.NOTIFICATION)


class Direct:
    """How one notifier reaches its only topic over one connection. Immutable, thread-safe.

    `topics`: the topic and its route, by level. `headers`: those that the notifier sends with everything.
    """

    __slots__ = ("_encode", "_levels", "_publisher_id", "_retry", "_session", "_timeout")

    def __init__(
        self,
        session: NotifySession,
        publisher_id: str,
        topics: Mapping[str, tuple[str, Route]],
        headers: Mapping[str, Any],
        timeout: float,
        retry: int | None,
    ) -> None:
        self._session = session
        self._encode = session.operations.wire.encode_notification
        self._publisher_id = publisher_id
        self._levels = {
            level: (topic, route, {**headers, LEVEL_HEADER: level}) for level, (topic, route) in topics.items()
        }
        self._timeout = timeout
        self._retry = retry

    def start(
        self,
        level: str,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        key: str | None,
        wake: Callable[[], object],
    ) -> Sending | None:
        """Start to send; `wake` is called when the outcome is there. Any thread, never waits.

        None: nothing was sent, because something has to be looked at more closely.
        """
        found = self._levels.get(level)
        if found is None or type(event_type) is not str or not event_type:
            return None
        if ctxt is None:
            ctxt = {}
        elif type(ctxt) is not dict:
            return None
        try:
            body = self._encode(
                Notification(
                    VERSION, _NOTIFICATION, 0, event_type, self._publisher_id, level, time.time(), ctxt, payload
                )
            )
        except (TypeError, ValueError, OverflowError, RecursionError):
            return None
        session = self._session
        if len(body) > session.reactor.capabilities.max_body:
            return None
        topic, route, own = found
        id_ = session.next_id()
        timeout = self._timeout
        deadline = session.clock() + timeout
        sending = Sending(
            id=id_,
            kind=KIND,
            timeout=timeout,
            deadline=deadline,
            wake=wake,
            session=session,
            topic=topic,
            retry=self._retry,
        )
        headers = {**own, MESSAGE_ID: id_}
        if key is not None:
            headers[KEY_HEADER] = key
        session.start(sending, Outgoing(route, body, headers, sending, key, deadline=deadline))
        return sending
