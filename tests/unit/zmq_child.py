"""A server in a process of its own, for tests that kill, stop or replace it.

    python -m tests.unit.zmq_child URL [echo | take | hold] [server name] [quiet]

It serves the topic "topic". `echo` answers and settles, `take` settles without an answer, `hold` does neither. Unless
it is quiet it says what it got.
"""

from __future__ import annotations

import sys

from messaging.message import Delivery, Source
from tests.unit.zmq_peers import Member, any_source, one_source


def main(url: str, what: str = "echo", name: str = "child", say: str = "got") -> None:
    """Serve until killed."""
    member = Member(url)

    def answer(delivery: Delivery) -> None:
        if say == "got":
            print("got", delivery.body[:20].decode(), flush=True)
        if what == "echo":
            member.echo(delivery)
        elif what == "take":
            member.accept(delivery)

    member.on_delivery = answer
    member.subscribe(Source.reply(), any_source(), one_source(name))
    print("ready", flush=True)
    while True:
        member.connection.pump(10.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
