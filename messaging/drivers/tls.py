"""The TLS of every driver that speaks it over a socket of ours: one set of options, verified unless said otherwise.

Python's own TLS, also where a client library brings one: what the library can do depends on how it was built, and its
checks of names differ. Whatever the files in it have to be is looked at when a transport is built, not when it first
connects.
"""

from __future__ import annotations

import ssl

from messaging.errors import ConfigError

__all__ = ["tls_context"]


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
