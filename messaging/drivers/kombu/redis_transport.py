"""kombu's redis transport, made to hand over what it would send instead of sending it message by message.

kombu decides how a message looks and to which key or channel it goes; the session sends many of them in one round
trip, and hears the answer to each. `_put` and `_put_fanout` are where kombu has its transports plug in their storage.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis
from kombu.utils.json import dumps

__all__ = ["Channel", "Transport"]


class Channel(redis.Channel):  # type: ignore[misc]
    """A channel that collects commands."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._commands: list[tuple[str, str, str]] = []
        super().__init__(*args, **options)

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        self._commands.append(("LPUSH", queue, dumps(message)))

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **options: Any) -> None:
        self._commands.append(("PUBLISH", self.fanout_topic(exchange), dumps(message)))

    def collected(self) -> list[tuple[str, str, str]]:
        """What kombu would have sent since the last call: (command, key, message)."""
        commands, self._commands = self._commands, []
        return commands

    def fanout_topic(self, exchange: str) -> str:
        """The channel of PUB/SUB to which a fanout exchange publishes."""
        topic: str = self._get_publish_topic(exchange, "")
        return topic


class Transport(redis.Transport):  # type: ignore[misc]
    """Makes such channels."""

    Channel = Channel
