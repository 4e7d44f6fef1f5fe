"""Run servers in the foreground, for trying things by hand: `python -m tests.brokers rabbit redis`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from threading import Event

from tests.brokers import SERVERS, ServerFailed


def main(names: list[str]) -> int:
    """Start the named servers, print their URLs, and end them at Ctrl-C."""
    unknown = [name for name in names if name not in SERVERS]
    if unknown or not names:
        print(f"usage: python -m tests.brokers {'|'.join(SERVERS)}...", file=sys.stderr)
        return 2
    try:
        with ExitStack() as stack:
            for name in names:
                server = stack.enter_context(SERVERS[name]())
                print(f"{name}: {server.url} (log: {server.log})", flush=True)
            Event().wait()
    except KeyboardInterrupt:
        return 0
    except ServerFailed as error:
        print(error, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
