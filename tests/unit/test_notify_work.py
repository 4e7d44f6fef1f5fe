"""The order of keys, the bound of what is under way, and the size of what is in hand, between threads."""

from __future__ import annotations

import threading
import time

from messaging.in_flight import InFlight
from messaging.message import Delivery, Source, SourceKind
from messaging.notify.endings import Tables
from messaging.notify.work import InHand, Lanes


def _item(key: str | None = None, body: bytes = b"") -> InHand:
    return InHand(Delivery(Source(SourceKind.POOLS), body, {}), 1, key)


def test_a_key_goes_through_one_at_a_time_in_order() -> None:
    """Whoever leaves lets the next of its key go; other keys, and none, are not held up."""
    lanes = Lanes()
    first, second, third, other, free = _item("a"), _item("a"), _item("a"), _item("b"), _item()
    assert [lanes.enter(item) for item in (first, second, third, other, free)] == [True, False, False, True, True]
    assert lanes.leave(free) is None
    assert lanes.leave(first) is second
    assert lanes.leave(second) is third
    assert lanes.leave(third) is None
    assert lanes.enter(_item("a"))


def test_lanes_lose_nobody_between_threads() -> None:
    """While one thread lets items in and others let them go, each item goes once."""
    lanes = Lanes()
    gone: list[InHand] = []
    ready: list[InHand] = []
    more = threading.Semaphore(0)
    total = 5_000

    def work() -> None:
        while True:
            more.acquire()
            if not ready:
                return
            item: InHand | None = ready.pop()
            while item is not None:
                gone.append(item)
                item = lanes.leave(item)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    items = [_item(f"k{number % 3}") for number in range(total)]
    for item in items:
        if lanes.enter(item):
            ready.append(item)
            more.release()
    deadline = time.monotonic() + 10.0
    while len(gone) < total and time.monotonic() < deadline:
        threading.Event().wait(0.001)
    for _ in workers:
        more.release()
    for worker in workers:
        worker.join(5.0)
    assert len(gone) == total
    assert len(set(map(id, gone))) == total


def test_in_flight_bounds_and_waits() -> None:
    """There is room for so many; an end makes room; the last end ends the wait."""
    under_way = InFlight(2)
    assert under_way.try_begin()
    assert under_way.try_begin()
    assert not under_way.try_begin()
    assert not under_way.begin(0.01)
    threading.Timer(0.02, under_way.ended).start()
    assert under_way.begin(5.0)
    assert not under_way.wait(0.01)
    threading.Timer(0.02, under_way.ended).start()
    threading.Timer(0.04, under_way.ended).start()
    assert under_way.wait(5.0)


def test_in_flight_counts_ends_from_many_threads() -> None:
    """No end is lost, and no wait misses the last one."""
    under_way = InFlight(100)
    pause = threading.Barrier(5)

    def end() -> None:
        for _ in range(200):
            pause.wait(10.0)
            for _ in range(10):
                under_way.ended()

    threads = [threading.Thread(target=end) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        assert all(under_way.begin(5.0) for _ in range(40))
        pause.wait(10.0)
        assert under_way.wait(5.0)
    for thread in threads:
        thread.join(5.0)


def test_the_size_in_hand_is_kept() -> None:
    """Bodies count from receipt to end, whoever ends them."""
    tables = Tables()
    items = [_item(body=b"x" * size) for size in (10, 20, 30)]
    tables.add(items)
    assert tables.bytes() == 60
    assert tables.remove(items[1])
    assert tables.bytes() == 40


def test_what_waits_as_it_came_is_in_hand_once() -> None:
    """Deliveries that are ready count beside the table, and are entered in it once, whatever a worker has taken."""
    tables = Tables()
    begun, waiting = _item(), _item()
    tables.add([begun])
    tables.ready.extend([begun, waiting.delivery])
    assert tables.count() == 2
    tables.enter_ready()
    assert tables.count() == 2
    assert not tables.ready
    assert [item.delivery for item in tables.waiting] == [begun.delivery, waiting.delivery]
