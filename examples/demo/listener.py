"""A listener: handlers by type of event, and `messaging.run`.

    MESSAGING_RPC_URL=zmq:// python -m examples.demo.listener audit

Notifications use the RPC url, unless MESSAGING_NOTIFY_URL says otherwise.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import messaging
from messaging import notify

log = logging.getLogger("audit")


class Audit:
    """The endpoint. The listeners of one pool share the notifications; each pool gets all of them."""

    @notify.on("order.*", level="info")
    def ordered(self, event: notify.Event[dict[str, Any]]) -> None:
        """Write it down. Where this raises, the notification comes again."""
        log.info("has heard %s %s from %s", event.event_type, event.payload, event.publisher_id)


def main(pool: str) -> None:
    """Listen in this pool until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with messaging.open_transports(messaging.load_config()) as transports:
        targets = [messaging.Target(topic="notifications")]
        messaging.run(notify.Listener(transports.notify, targets, [Audit()], pool=pool), grace=10)


if __name__ == "__main__":
    main(sys.argv[1])
