"""The broker of examples/own_driver, and peers that are connected to it and pumped by hand."""

from __future__ import annotations

from typing import Any

from examples.own_driver.driver import Driver, Settings
from examples.own_driver.server import BrokerThread
from messaging.drivers.base import Role
from messaging.url import parse_url
from tests.unit.pumping import Peer, Recorder, Services


class TcpService(BrokerThread):
    """A broker, and the peers to be closed before it."""

    def __init__(self) -> None:
        super().__init__()
        self._peers: list[Peer] = []

    def __exit__(self, *raised: Any) -> None:
        for peer in self._peers:
            peer.connection.close(0.0)
            peer.until(lambda peer=peer: peer.events.log[-1:] == ["CLOSED"])  # type: ignore[misc]
        super().__exit__(*raised)

    def connection(self, url: str = "") -> Peer:
        """A connection that was not pumped, to the broker or elsewhere."""
        events = Recorder()
        settings = Settings(url=parse_url(url or self.url))
        peer = Peer(Driver().connect(settings, Role.ALL, events, Services()), events)
        self._peers.append(peer)
        return peer

    def peer(self, *sources: Any, window: int = 10) -> Peer:
        """A connection that is READY and subscribed."""
        peer = self.connection()
        for source in sources:
            peer.connection.subscribe(source, window)
        peer.until(lambda: len(peer.events.addresses) == len(sources) and "READY" in peer.events.log)
        return peer
