"""Notifications whose handlers fail: once more after a while, or never, and where what nobody could handle ends.

    python -m examples.retry_and_dead_letters [URL]

The same on every transport. What differs is what survives a crash of the listener: see docs/semantics.md.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import messaging
from messaging import Target, notify


class Billing:
    """A handler ends in one of four ways: it returns, raises Retry, raises Reject, or raises anything else."""

    def __init__(self) -> None:
        self.paid = threading.Event()

    @notify.on("invoice.*")
    def invoice(self, event: notify.Event[dict[str, Any]]) -> None:
        """Pay, if that can be done."""
        number = event.payload["number"]
        if event.event_type == "invoice.cancelled":
            raise notify.Reject("there is nothing to pay")  # never: to the dead letters at once
        if number == 7 and event.attempt == 1:
            raise notify.Retry("the bank is closed", after=0.2)  # not now: again after 0.2 s
        if number == 13:
            raise ValueError("unlucky")  # again with backoff, at most `max_attempts` times altogether
        print(f"invoice {number} is paid at attempt {event.attempt}")
        if number == 7:
            self.paid.set()


class DeadLetters:
    """Keeps what nobody could handle. A real one writes it where somebody will look."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        self.complete = threading.Event()

    def __call__(self, event: notify.Event[Any], reason: str, error: BaseException | None) -> None:
        """Take one; if this raises, it is tried again later."""
        self.letters.append(f"{event.event_type} {event.payload['number']}, attempt {event.attempt}: {reason}")
        if len(self.letters) == 2:
            self.complete.set()


def main(url: str) -> None:
    """Listen and notify, in one process here."""
    billing, dead = Billing(), DeadLetters()
    with messaging.open_transport(url) as transport:
        listener = notify.Listener(
            transport,
            [Target(topic="invoices")],
            [billing],
            pool="billing",
            max_attempts=3,
            backoff=0.1,
            dead_letter=dead,
        )
        with listener:
            notifier = notify.Notifier(transport, "shop", topics=["invoices"])
            for number in (1, 7, 13):
                notifier.info(None, "invoice.created", {"number": number}, key=f"customer-{number}")
            notifier.info(None, "invoice.cancelled", {"number": 2})
            if not (billing.paid.wait(10) and dead.complete.wait(10)):
                raise SystemExit("something is still under way after 10 s")
        for letter in sorted(dead.letters):
            print(f"dead letter: {letter}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "memory://")
