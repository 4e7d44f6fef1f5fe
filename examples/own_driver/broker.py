"""A small message broker over TCP, for the example of a driver in tcp_driver.py: `python examples/tcp_broker.py
[PORT]`.

It keeps everything in memory. Each frame is four bytes of length and a msgpack map. A client asks {op, id, ...} and
gets {id, error};
messages come as {sub, tag, ...} for as many as it has pulled.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import sys
from collections import deque
from typing import Any

import msgspec

__all__ = ["Broker", "read_frame", "write_frame"]

Frame = dict[str, Any]


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """Read one frame; raises EOFError at the end."""
    length = int.from_bytes(await reader.readexactly(4))
    frame: Frame = msgspec.msgpack.decode(await reader.readexactly(length))
    return frame


def write_frame(writer: asyncio.StreamWriter, frame: Frame) -> None:
    """Write one frame into the writer's buffer."""
    data = msgspec.msgpack.encode(frame)
    writer.write(len(data).to_bytes(4) + data)


class Queue:
    """Messages that wait, and consumers in the order of their turns."""

    def __init__(self, *key: str) -> None:
        self.key = key
        self.waiting: deque[Frame] = deque()
        self.consumers: deque[Consumer] = deque()

    def put(self, message: Frame, front: bool = False) -> None:
        """Add a message."""
        (self.waiting.appendleft if front else self.waiting.append)(message)
        self.feed()

    def feed(self) -> None:
        """Hand out what waits, one message at a time, to whoever has asked for more."""
        while self.waiting and any(consumer.credit for consumer in self.consumers):
            self.consumers.rotate(-1)
            if self.consumers[0].credit:
                self.consumers[0].give(self.waiting.popleft())


class Consumer:
    """One subscription of one client."""

    def __init__(self, client: Client, sub: int, queue: Queue) -> None:
        self.client = client
        self.sub = sub
        self.queue = queue
        self.credit = 0
        queue.consumers.append(self)

    def give(self, message: Frame) -> None:
        """Send a message to the client."""
        self.credit -= 1
        tag = next(self.client.tags)
        self.client.unsettled[tag] = (self.queue, message)
        write_frame(self.client.writer, {"sub": self.sub, "tag": tag, **message})

    def leave(self) -> None:
        """Consume nothing more."""
        self.queue.consumers.remove(self)


class Client:
    """One connection."""

    def __init__(self, broker: Broker, writer: asyncio.StreamWriter) -> None:
        self.broker = broker
        self.writer = writer
        self.address = secrets.token_hex(8)
        self.tags = itertools.count(1)
        self.consumers: dict[int, Consumer] = {}
        self.unsettled: dict[int, tuple[Queue, Frame]] = {}

    def subscribe(self, sub: int, kind: str, exchange: str, topic: str, name: str) -> str:
        """Consume from a queue, made when it is not there."""
        if kind in ("reply", "all"):
            name = self.address + name
        queue = self.broker.queue(kind, exchange, topic, name)
        self.consumers[sub] = Consumer(self, sub, queue)
        return self.address

    def unsubscribe(self, sub: int) -> None:
        """Consume nothing more."""
        consumer = self.consumers.pop(sub)
        consumer.leave()
        self.broker.tidy(consumer.queue)

    def pull(self, sub: int, count: int) -> None:
        """Ask for more messages."""
        if sub in self.consumers:
            self.consumers[sub].credit += count
            self.consumers[sub].queue.feed()

    def settle(self, tags: list[int], outcome: str) -> None:
        """Forget messages, or put them back."""
        for tag in sorted(tags, reverse=True):
            queue, message = self.unsettled.pop(tag)
            if outcome == "requeue":
                queue.put({**message, "attempt": message["attempt"] + 1}, front=True)

    def publish(self, kind: str, exchange: str, topic: str, name: str, message: Frame) -> str | list[int] | None:
        """Put a message into every queue that it is for."""
        found = self.broker.find(kind, exchange, topic, name)
        if kind != "all" and not any(queue.consumers or kind == "pools" for queue in found):
            return "no route"
        for queue in found:
            queue.put(message)
        return [len(found), 0] if kind == "all" else None

    def leave(self) -> None:
        """Give back everything, because the connection is gone."""
        for consumer in self.consumers.values():
            consumer.leave()
        self.settle(list(self.unsettled), "requeue")
        for consumer in self.consumers.values():
            self.broker.tidy(consumer.queue)
        self.writer.close()


class Broker:
    """The queues of all clients."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, ...], Queue] = {}
        self._clients: dict[asyncio.Task[Any], Client] = {}
        self._server: asyncio.Server | None = None

    def queue(self, *key: str) -> Queue:
        """Return a queue by kind, exchange, topic and name."""
        return self._queues.setdefault(key, Queue(*key))

    def tidy(self, queue: Queue) -> None:
        """Forget a queue that was for one client alone, when nobody consumes it any more."""
        if queue.key[0] in ("reply", "all") and not queue.consumers:
            self._queues.pop(queue.key, None)

    def find(self, kind: str, exchange: str, topic: str, name: str) -> list[Queue]:
        """Return the queues that a message is for."""
        if kind in ("all", "pools"):
            return [queue for key, queue in self._queues.items() if key[:3] == (kind, exchange, topic)]
        found = self._queues.get((kind, exchange, topic, name))
        return [] if found is None else [found]

    async def start(self, port: int = 0) -> int:
        """Listen on the loopback interface; return the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Listen no more, cut all clients, and wait until they are gone."""
        if self._server is not None:
            self._server.close()
        self.cut()
        while self._clients:
            await asyncio.wait(self._clients)

    def cut(self) -> None:
        """Cut all clients."""
        for client in self._clients.values():
            client.writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Client(self, writer)
        task = asyncio.current_task()
        assert task is not None, "a server runs this in a task"
        self._clients[task] = client
        try:
            while True:
                frame = await read_frame(reader)
                result = getattr(client, frame["op"])(*frame["args"])
                if frame["id"]:
                    write_frame(writer, {"id": frame["id"], "result": result})
                await writer.drain()
        except (EOFError, OSError):
            pass  # the client is gone
        finally:
            client.leave()
            await asyncio.wait({asyncio.ensure_future(writer.wait_closed())})
            del self._clients[task]


async def _main() -> None:
    port = await Broker().start(int(sys.argv[1]) if len(sys.argv) > 1 else 7777)
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
