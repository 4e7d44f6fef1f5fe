"""Which notifications an endpoint wants: the predecessor's NotificationFilter.

Each rule is a regular expression that has to match from the start of a value (re.match), or a dict of such rules for
the values of a dict. What is missing, or is no string, does not match. Pure; an endpoint sets one as its attribute
`filter_rule`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from messaging.errors import ConfigError

__all__ = ["Filter"]

Rule = str | Mapping[str, "Rule"] | None
_Compiled = re.Pattern[str] | dict[str, "_Compiled"]


class Filter:
    """Rules that a notification must meet, all of them. Immutable, thread-safe.

    `publisher_id` and `event_type` are regular expressions; `context`, `metadata` (message_id, timestamp) and `payload`
    are dicts of them, by key, nested as the values are. Raises ConfigError for a rule that is no regular expression.
    """

    __slots__ = ("_context", "_event_type", "_metadata", "_payload", "_publisher_id")

    def __init__(
        self,
        context: Rule = None,
        publisher_id: Rule = None,
        event_type: Rule = None,
        metadata: Rule = None,
        payload: Rule = None,
    ) -> None:
        self._context = _compiled(context, "context")
        self._publisher_id = _compiled(publisher_id, "publisher_id")
        self._event_type = _compiled(event_type, "event_type")
        self._metadata = _compiled(metadata, "metadata")
        self._payload = _compiled(payload, "payload")

    def match(self, context: Any, publisher_id: str, event_type: str, metadata: Any, payload: Any) -> bool:
        """Whether a notification meets every rule."""
        return (
            _meets(event_type, self._event_type)
            and _meets(publisher_id, self._publisher_id)
            and _meets(context, self._context)
            and _meets(metadata, self._metadata)
            and _meets(payload, self._payload)
        )


def _compiled(rule: Rule, where: str) -> _Compiled | None:
    if rule is None:
        return None
    if isinstance(rule, Mapping):
        inner = {key: _compiled(value, f"{where}[{key!r}]") for key, value in rule.items()}
        return {key: value for key, value in inner.items() if value is not None}
    try:
        return re.compile(rule)
    except (re.error, TypeError) as error:
        raise ConfigError(f"the filter of {where} is no regular expression: {rule!r}: {error}") from error


def _meets(value: Any, rule: _Compiled | None) -> bool:
    if rule is None:
        return True
    if isinstance(rule, dict):
        return isinstance(value, Mapping) and all(
            key in value and _meets(value[key], each) for key, each in rule.items()
        )
    return isinstance(value, str) and rule.match(value) is not None
