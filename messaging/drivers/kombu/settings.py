"""The options of `kombu+redis://` URLs, and of those of kombu's other transports, and what of them cannot be meant."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from messaging.drivers.base import Settings
from messaging.drivers.tls import tls_context

__all__ = ["VirtualSettings"]


class VirtualSettings(Settings, frozen=True, kw_only=True):
    """One field per option."""

    def __repr__(self) -> str:
        # The generated one would show tls_key.
        return f"{type(self).__name__}({self.url!r})"

    heartbeat: Annotated[
        float, Meta(description="Seconds; a redis that is silent is given up within two of them", ge=0.5, le=600)
    ] = 10.0
    connect_timeout: Annotated[float, Meta(description="Seconds for connecting to one host", gt=0, le=600)] = 5.0
    socket_timeout: Annotated[
        float,
        Meta(description="Seconds for one round trip, for which everything on this connection may wait", gt=0, le=60),
    ] = 2.0
    visibility_timeout: Annotated[
        float,
        Meta(
            description="Seconds after which what a killed process had not settled is delivered again; whoever lives "
            "renews them, so handlers may take longer",
            ge=1,
        ),
    ] = 30.0
    expires: Annotated[
        float,
        Meta(description="Seconds for which the queues of a process (answers, server) outlive it", ge=10),
    ] = 300.0
    topic_expires: Annotated[
        float,
        Meta(description="Seconds after the last message for which the queue of a topic is kept; 0: for ever", ge=0),
    ] = 7 * 24 * 3600.0
    max_queue: Annotated[
        int, Meta(description="Messages in one queue; beyond it senders get Overloaded, a little late", ge=1)
    ] = 1_000_000
    max_body: Annotated[int, Meta(description="Bytes of the largest message", ge=1)] = 16 * 1024 * 1024
    tls: Annotated[bool, Meta(description="Speak TLS")] = False
    tls_ca: Annotated[
        str | None,
        Meta(description="File with the certificates that are trusted; by default the system's. Implies tls"),
    ] = None
    tls_cert: Annotated[str | None, Meta(description="File with the certificate of this process. Implies tls")] = None
    tls_key: Annotated[str | None, Meta(description="File with its key; by default it is in tls_cert too")] = None

    def check_files(self) -> None:
        """Raise ConfigError for files of TLS that do not serve, before anything is connected."""
        tls_context(self.tls_ca, self.tls_cert, self.tls_key, verify=True)

    def tls_parameters(self) -> dict[str, Any] | None:
        """TLS as redis wants it, a dictionary of its own for each call; None: no TLS."""
        if not (self.tls or self.tls_ca or self.tls_cert or self.url.variant == "rediss"):
            return None
        return {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": self.tls_ca,
            "ssl_certfile": self.tls_cert,
            "ssl_keyfile": self.tls_key,
        }
