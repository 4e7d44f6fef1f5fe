"""Bytes that are nearly right: what a fuzzer, another program or a broken network sends to a port.

Pure and seeded: the same seed gives the same bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

__all__ = ["mutated", "mutations"]


def _flip_bits(chance: random.Random, data: bytearray, _others: Sequence[bytes]) -> None:
    for _ in range(chance.randrange(1, 5)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _set_bytes(chance: random.Random, data: bytearray, _others: Sequence[bytes]) -> None:
    # The bytes that mean something in msgpack: lengths, limits of types, nil, never-used.
    for _ in range(chance.randrange(1, 4)):
        data[chance.randrange(len(data))] = chance.choice(
            b"\x00\x01\x7f\x80\x8f\x90\x9f\xa0\xc0\xc1\xc4\xc6\xdb\xdd\xff"
        )


def _cut(chance: random.Random, data: bytearray, _others: Sequence[bytes]) -> None:
    del data[chance.randrange(len(data)) :]


def _remove(chance: random.Random, data: bytearray, _others: Sequence[bytes]) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.randrange(1, 9)]


def _insert(chance: random.Random, data: bytearray, _others: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = chance.randbytes(chance.randrange(1, 17))


def _repeat(chance: random.Random, data: bytearray, _others: Sequence[bytes]) -> None:
    start = chance.randrange(len(data))
    part = data[start : start + chance.randrange(1, 33)]
    data[start:start] = part * chance.randrange(1, 9)


def _splice(chance: random.Random, data: bytearray, others: Sequence[bytes]) -> None:
    other = chance.choice(others)
    data[chance.randrange(len(data)) :] = other[chance.randrange(len(other)) :]


def _nest(chance: random.Random, data: bytearray, _others: Sequence[bytes]) -> None:
    # Arrays in arrays, deeper than any parser that recurses likes it.
    data[chance.randrange(len(data)) :] = b"\x91" * chance.choice((10, 500, 5000))


_STEPS: tuple[Callable[[random.Random, bytearray, Sequence[bytes]], None], ...] = (
    _flip_bits,
    _flip_bits,
    _set_bytes,
    _set_bytes,
    _cut,
    _remove,
    _insert,
    _repeat,
    _splice,
    _nest,
)


def mutated(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of the seeds with one to three things wrong with it."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 4)):
        if data:
            chance.choice(_STEPS)(chance, data, seeds)
    return bytes(data)


def mutations(seeds: Sequence[bytes], number: int, seed: int) -> Iterator[bytes]:
    """Yield so many of them."""
    chance = random.Random(seed)
    for _ in range(number):
        yield mutated(chance, seeds)
