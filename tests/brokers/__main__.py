"""Run servers in the foreground, for trying things by hand: `python -m tests.brokers rabbit redis`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from threading import Event

from tests.brokers import SERVERS, ServerFailed


def main(names: list[str]) -> int:
    """Start the named servers, print their URLs, and end them at Ctrl-C or at the end of the standard input."""
    unknown = [name for name in names if name not in SERVERS]
    if unknown or not names:
        print(f"usage: python -m tests.brokers {'|'.join(SERVERS)}...", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        for name in names:
            try:
                server = stack.enter_context(SERVERS[name]())
            except ServerFailed as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
            print(f"{name}: {server.url} (log: {server.log})", flush=True)
        try:
            Event().wait()
        except KeyboardInterrupt:
            print("stopping", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
