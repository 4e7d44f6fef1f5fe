"""The TLS of every driver that speaks it over a socket of ours: one set of options, verified unless said otherwise.

Python's own TLS, also where a client library brings one: what the library can do depends on how it was built, and its
checks of names differ. Whatever the files in it have to be is looked at when a transport is built, not when it first
connects.
"""

from __future__ import annotations

import ssl
from typing import Annotated

from msgspec import Meta

from messaging.drivers.base import Settings
from messaging.errors import ConfigError

__all__ = ["TlsSettings", "tls_context", "tls_of", "uses_tls"]


class TlsSettings(Settings, frozen=True, kw_only=True):
    """Base of the option table of a driver that connects by TLS over a socket of ours."""

    def __repr__(self) -> str:
        # The generated one would show tls_key.
        return f"{type(self).__name__}({self.url!r})"

    tls: Annotated[bool, Meta(description="Speak TLS; the port is then 5671 where the URL names none")] = False
    tls_ca: Annotated[
        str | None,
        Meta(description="File with the certificates that are trusted; by default the system's. Implies tls"),
    ] = None
    tls_cert: Annotated[
        str | None, Meta(description="File with the certificate of this process, and its chain. Implies tls")
    ] = None
    tls_key: Annotated[str | None, Meta(description="File with its key; by default it is in tls_cert too")] = None
    tls_server_name: Annotated[
        str | None, Meta(description="Name that the peer's certificate must have; by default the host of the URL")
    ] = None
    tls_verify: Annotated[
        bool, Meta(description="Check the peer's certificate and name; without, anybody may pass for the peer")
    ] = True


def uses_tls(settings: TlsSettings) -> bool:
    """Whether TLS is asked for, by itself or by an option that makes no sense without it."""
    named = (settings.tls_ca, settings.tls_cert, settings.tls_key, settings.tls_server_name)
    return settings.tls or any(name is not None for name in named)


def tls_of(settings: TlsSettings) -> ssl.SSLContext | None:
    """Return the TLS context, or None where TLS is not asked for. Raises ConfigError for files that do not serve."""
    if not uses_tls(settings):
        return None
    return tls_context(settings.tls_ca, settings.tls_cert, settings.tls_key, settings.tls_verify)


def tls_context(ca: str | None, cert: str | None, key: str | None, verify: bool) -> ssl.SSLContext:
    """Build the context of a client from the options `tls_ca`, `tls_cert`, `tls_key` and `tls_verify`.

    Raises ConfigError for files that do not serve.
    """
    if key is not None and cert is None:
        raise ConfigError("tls_key is the key of a certificate; name that too, by tls_cert")
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"option 'tls_ca': no certificates can be read from {ca!r}: {error}") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        try:
            context.load_cert_chain(cert, key, password=_no_passphrase)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"options 'tls_cert' and 'tls_key': {cert!r} cannot be used: {error}") from error
    return context


def _no_passphrase() -> str:
    # OpenSSL would ask for it at the terminal.
    raise ConfigError("the key of tls_cert is encrypted; give it without a passphrase")
