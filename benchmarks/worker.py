"""A process under measurement: it builds one server, one client, or both, and does as it is told.

    python -m benchmarks.worker SUBJECT ROLE PLACE [INDEX | ADDRESSES | FIRST AND COUNT]

Commands and answers are lines of JSON on the standard streams. The main thread only waits for commands, so that it
takes nothing from the threads that are measured; the end of its input is the end of the process.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import IO, Any, cast

from benchmarks import load
from benchmarks.subject import AsyncClient, Client, Server, Subject
from benchmarks.subject import load as load_subject

Figures = load.Figures
_HANDLED_WITHIN = 30.0  # seconds for the last message of a burst, after it was sent


def _payload(size: int) -> bytes:
    # Letters: some peers carry text alone, and would write a zero byte as six.
    return b"x" * size


class Servers:
    """The servers of this process, and the count of what they handled."""

    def __init__(self, subject: Subject, place: str, indexes: Sequence[int]) -> None:
        self._tallies = [load.Tally() for _ in indexes]
        self._servers: list[Server] = [
            subject.serve(place, index, tally.handled) for index, tally in zip(indexes, self._tallies, strict=True)
        ]

    @property
    def addresses(self) -> list[str]:
        """Return what clients need to reach each of them."""
        return [server.address for server in self._servers]

    def expect(self, count: int) -> Figures:
        """Count from nothing up to this number, on each server."""
        for tally in self._tallies:
            tally.expect(count)
        return {}

    def handled(self) -> Figures:
        """Wait until all have handled what they expect, and say when the last one had."""
        return {"at": max(tally.wait(_HANDLED_WITHIN)["at"] for tally in self._tallies)}

    def stop(self) -> None:
        """Stop all."""
        for server in self._servers:
            server.stop()


class Services:
    """Many services of one process, each a server and a client of a topic of its own."""

    def __init__(self, subject: Subject, place: str, first: int, count: int) -> None:
        places = [f"{place} service-{number}" for number in range(first, first + count)]
        self._servers = [subject.serve(each, 0, lambda: None) for each in places]
        self._clients = [
            subject.connect(each, [server.address]) for each, server in zip(places, self._servers, strict=True)
        ]

    def call_each(self) -> Figures:
        """Call every one of them once."""
        for client in self._clients:
            client.caller()(b"x")
        return {}

    def stop(self) -> None:
        """Stop all."""
        for client in self._clients:
            client.close()
        for server in self._servers:
            server.stop()


class ThreadsClient:
    """The loads for a client of threads."""

    def __init__(self, subject: Subject, place: str, servers: Sequence[str]) -> None:
        self._client: Client = subject.connect(place, servers)

    def sequential(self, size: int, seconds: float) -> Figures:
        """One caller."""
        return load.sequential(self._client, _payload(size), seconds)

    def threads(self, size: int, seconds: float) -> Figures:
        """Sixteen callers."""
        return load.threads(self._client, _payload(size), seconds)

    def cast(self, size: int, count: int) -> Figures:
        """Send a burst to one server."""
        return load.burst(self._client.cast, _payload(size), count)

    def fanout(self, size: int, count: int) -> Figures:
        """Send a burst to every server."""
        return load.burst(self._client.fanout, _payload(size), count)

    def notify(self, size: int, count: int) -> Figures:
        """Send a burst of notifications."""
        return load.burst(self._client.notify, _payload(size), count)

    def stop(self) -> None:
        """Close the client."""
        self._client.close()


class AsyncioClient:
    """The loads for a client of an event loop, which runs in a thread from the first command to the last."""

    def __init__(self, subject: Subject, place: str, servers: Sequence[str]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop")
        self._thread.start()
        self._client: AsyncClient = self._run(subject.connect_async(place, servers))

    def sequential(self, size: int, seconds: float) -> Figures:
        """One caller."""
        return self._figures(load.sequential_async(self._client, _payload(size), seconds))

    def tasks(self, size: int, seconds: float) -> Figures:
        """Sixty-four callers."""
        return self._figures(load.tasks(self._client, _payload(size), seconds))

    def in_flight(self, size: int, count: int) -> Figures:
        """All calls at once."""
        return self._figures(load.in_flight(self._client, _payload(size), count))

    def cast(self, size: int, count: int) -> Figures:
        """Send a burst to one server."""
        return self._figures(load.burst_async(self._client, "cast", _payload(size), count))

    def fanout(self, size: int, count: int) -> Figures:
        """Send a burst to every server."""
        return self._figures(load.burst_async(self._client, "fanout", _payload(size), count))

    def stop(self) -> None:
        """Close the client and its loop."""
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _figures(self, coroutine: Any) -> Figures:
        return cast(Figures, self._run(coroutine))


def _build(subject: Subject, role: str, place: str, argument: str) -> tuple[list[Any], list[str]]:
    """Return the objects that answer commands, the last one closed first, and the addresses of the servers among
    them.
    """
    parts: list[Any] = []
    addresses: list[str] = json.loads(argument) if role == "client" else []
    if role == "services":
        parts.append(Services(subject, place, *json.loads(argument)))
    if role in ("server", "both"):
        indexes = range(int(argument)) if role == "both" else [int(argument)]
        servers = Servers(subject, place, indexes)
        parts.append(servers)
        addresses = servers.addresses
    if role in ("client", "both"):
        face = AsyncioClient if subject.asyncio else ThreadsClient
        parts.append(face(subject, place, addresses))
    return parts, addresses


def _obey(parts: Sequence[Any], command: str, arguments: dict[str, Any]) -> Figures:
    for part in parts:
        if hasattr(part, command):
            return cast(Figures, getattr(part, command)(**arguments))
    raise LookupError(f"no load called {command!r} for this subject")


def _answer(channel: IO[str], act: Callable[[], Any]) -> bool:
    """Do something and write its result as one line; False where it failed."""
    try:
        line = {"result": act()}
    except Exception as error:
        # The parent prints the short form beside the row; the long one goes to the stream that it keeps for failures.
        traceback.print_exc()
        line = {"error": _told(error)}
    channel.write(json.dumps(line) + "\n")
    channel.flush()
    return "result" in line


def _told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return f"{error}, the first: {_told(error.exceptions[0])}"
    return f"{type(error).__name__}: {error}"


def main(name: str, role: str, place: str, argument: str) -> None:
    """Build the parts of the role, then obey until the input ends."""
    # Libraries may print; the parent reads a descriptor that they do not know.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    parts: list[Any] = []

    def start() -> list[str]:
        built, addresses = _build(load_subject(name), role, place, argument)
        parts.extend(built)
        return addresses

    if _answer(channel, start):
        for line in sys.stdin:
            request: dict[str, Any] = json.loads(line)
            command = request.pop("do")
            _answer(channel, functools.partial(_obey, parts, command, request))
    for part in reversed(parts):
        part.stop()


if __name__ == "__main__":
    main(*sys.argv[1:5])
