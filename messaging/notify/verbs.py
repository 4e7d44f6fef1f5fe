"""The verbs of everything that sends notifications: notifiers and pipelines, blocking and asyncio.

One verb per level, all the same but for it; what they return is up to who waits, or does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

__all__ = ["Verbs"]

R = TypeVar("R")


class Verbs(Generic[R]):
    """The verbs of notifiers and pipelines: one per level. All take a context (a mapping or None), an event type, and a
    payload.
    """

    def notify(
        self,
        level: str,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> R:
        """Send a notification of a level given by name; the other verbs are this with a level."""
        raise TypeError(f"{type(self).__name__} does not say how a notification is sent")

    def audit(
        self,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> R:
        """Send at level audit."""
        return self.notify("audit", ctxt, event_type, payload, key=key, headers=headers)

    def debug(
        self,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> R:
        """Send at level debug."""
        return self.notify("debug", ctxt, event_type, payload, key=key, headers=headers)

    def info(
        self,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> R:
        """Send at level info."""
        return self.notify("info", ctxt, event_type, payload, key=key, headers=headers)

    def warn(
        self,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> R:
        """Send at level warn."""
        return self.notify("warn", ctxt, event_type, payload, key=key, headers=headers)

    def warning(
        self,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> R:
        """Send at level warn."""
        return self.notify("warn", ctxt, event_type, payload, key=key, headers=headers)

    def error(
        self,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> R:
        """Send at level error."""
        return self.notify("error", ctxt, event_type, payload, key=key, headers=headers)

    def critical(
        self,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> R:
        """Send at level critical."""
        return self.notify("critical", ctxt, event_type, payload, key=key, headers=headers)

    def sample(
        self,
        ctxt: Mapping[str, Any] | None,
        event_type: str,
        payload: Any,
        *,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> R:
        """Send at level sample."""
        return self.notify("sample", ctxt, event_type, payload, key=key, headers=headers)
