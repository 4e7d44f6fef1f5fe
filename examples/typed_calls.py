"""Calls by reference: mypy checks the arguments, and values arrive as the types that the signature names.

    python -m examples.typed_calls [URL]

A client needs the endpoint's class for that, not its data: put classes and types into a module that both sides import.
A client without it calls by name, with plain values, and is checked by the server.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import messaging
from messaging import Target, rpc


@dataclass
class Room:
    """What is asked for."""

    name: str
    seats: int


@dataclass
class Booking:
    """What comes back."""

    room: Room
    start: datetime
    end: datetime


class Taken(Exception):
    """Somebody else has the room."""


class Rooms:
    """Declared exceptions belong to the interface as the arguments do."""

    target = Target(namespace="rooms", version="2.1")

    def __init__(self) -> None:
        self.booked: set[str] = set()

    @rpc.expose(raises=(Taken,))
    def book(self, ctxt: dict[str, Any], room: Room, start: datetime, hours: float = 1.0) -> Booking:
        """Book a room."""
        if room.name in self.booked:
            raise Taken(room.name)
        self.booked.add(room.name)
        return Booking(room, start, start + timedelta(hours=hours))


def main(url: str) -> None:
    """Serve and call, in one process here."""
    noon = datetime(2030, 5, 17, 12, tzinfo=UTC)
    with (
        messaging.open_transport(url) as transport,
        rpc.Server(transport, Target(topic="rooms", server="host-1"), [Rooms()]),
    ):
        client = rpc.Client(transport, Target(topic="rooms", namespace="rooms", version="2.0"), timeout=5)

        booking = client.call(None, Rooms.book, room=Room("blue", 8), start=noon)
        print(f"{booking.room.name} until {booking.end:%H:%M}")  # mypy knows a Booking, and it is one

        try:
            client.call(None, Rooms.book, room=Room("blue", 8), start=noon)
        except Taken as error:
            print(f"taken: {error}, says {error.__cause__!r}")

        # By name, with plain values: what does not fit is refused before the method runs.
        try:
            client.call(None, "book", room={"name": "red", "seats": "many"}, start="2030-05-17T12:00:00Z")
        except messaging.BadArguments as error:
            print(f"refused: {error}; delivered {error.delivered.name}")

        # The server has 2.1, which serves who asks for 2.0; it does not serve who asks for 3.0.
        try:
            client.prepare(version="3.0").call(None, Rooms.book, room=Room("red", 4), start=noon)
        except messaging.UnsupportedVersion as error:
            print(f"refused: {error}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "memory://")
