"""A name with two addresses, of which the first drops all that comes to it, as a firewall or a dead machine does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

__all__ = ["silent_first"]


@contextmanager
def silent_first(patch: pytest.MonkeyPatch, name: str, port: int) -> Iterator[None]:
    """While it lasts the name, at that port, stands for such an address and, behind it, for 127.0.0.1."""
    with ExitStack() as stack:
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.2", 0))
        silent.listen(0)
        # One is let into a backlog of none; from then on Linux drops each further SYN.
        stack.enter_context(socket.create_connection(silent.getsockname()))
        with pytest.raises(TimeoutError):
            socket.create_connection(silent.getsockname(), 0.05)
        real = socket.getaddrinfo

        def found(host: Any, service: Any, *arguments: Any, **options: Any) -> list[Any]:
            if (host, service) != (name, port):
                return real(host, service, *arguments, **options)
            places = (silent.getsockname(), ("127.0.0.1", port))
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place) for place in places]

        patch.setattr(socket, "getaddrinfo", found)
        try:
            yield
        finally:
            patch.setattr(socket, "getaddrinfo", real)
