"""The options of `zmq://` URLs, and what of them cannot be meant."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from messaging.drivers.base import Settings

__all__ = ["ZmqSettings"]


class ZmqSettings(Settings, frozen=True, kw_only=True):
    """One field per option."""

    def __repr__(self) -> str:
        # The generated one would show curve_key.
        return f"{type(self).__name__}({self.url!r})"

    bind: Annotated[str, Meta(description="Address on which servers listen; anything but loopback needs CURVE")] = (
        "127.0.0.1"
    )
    advertise: Annotated[
        str | None, Meta(description="Address under which others reach the servers; by default the one they listen on")
    ] = None
    ports: Annotated[
        Annotated[str, Meta(pattern=r"^\d+(-\d+)?$", examples=["5555", "49152-65535"])] | None,
        Meta(
            description="Ports to listen on, one or a range, tried at random; by default 49152-65535, for "
            "zmq+static:// those in the URL"
        ),
    ] = None
    curve_key: Annotated[
        str | None,
        Meta(
            description="Secret CURVE key of this process: 40 characters of Z85, or the path of a file that holds them"
        ),
    ] = None
    curve_server_key: Annotated[
        str | None,
        Meta(
            description="Public CURVE key of the servers, or the path of a file that holds it; by default the own one, "
            "for processes that share one key pair"
        ),
    ] = None
    curve_allowed: Annotated[
        str | None,
        Meta(
            description="Public CURVE keys of those who may connect, divided by commas, or the path of a file with one "
            "on each line; by default the own one alone"
        ),
    ] = None
    insecure: Annotated[bool, Meta(description="Listen without CURVE on addresses that other machines can reach")] = (
        False
    )
    max_message: Annotated[
        int, Meta(description="Largest body, in bytes, that is sent or received", ge=1024, le=2**30)
    ] = 16 * 1024 * 1024
    inbox: Annotated[
        int, Meta(description="Bytes of bodies that may wait in a process unsettled; beyond it answers BUSY", ge=1024)
    ] = 64 * 1024 * 1024
    send_hwm: Annotated[
        int, Meta(description="ZeroMQ messages (batches) that may wait for the network, per peer", ge=1, le=100_000)
    ] = 1000
    receive_hwm: Annotated[
        int, Meta(description="ZeroMQ messages (batches) that may wait for this process, per peer", ge=1, le=100_000)
    ] = 1000
    heartbeat: Annotated[
        float, Meta(description="Seconds between heartbeats; a stalled peer is noticed within two", ge=0.1, le=600)
    ] = 2.0
    connect_timeout: Annotated[
        float, Meta(description="Seconds until a peer that has not said hello is given up", gt=0, le=600)
    ] = 3.0
    idle_close: Annotated[
        float, Meta(description="Seconds without use after which the connection to a peer is closed", gt=0)
    ] = 300.0
    max_peers: Annotated[
        int, Meta(description="Peers to which connections are open at a time; each takes four descriptors", ge=1)
    ] = 128
    linger: Annotated[
        float, Meta(description="Seconds for which closing waits until what was written has left", ge=0, le=60)
    ] = 1.0
    lease: Annotated[
        float, Meta(description="Seconds after which the record of a server that died is gone at the latest", ge=1)
    ] = 15.0
    refresh: Annotated[
        float, Meta(description="Seconds between two looks at who serves what, when nothing else asks for it", gt=0)
    ] = 1.0
