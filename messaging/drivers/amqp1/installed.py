"""What the installed proton can do: its version, TLS and SASL. For error messages, and for whoever asks
`python -m messaging.drivers.amqp1`.

pip builds proton from its source, so what it can do is settled by the headers that were there on that day, and pip
keeps the poorer build in its cache.
"""

from __future__ import annotations

from typing import NamedTuple

from cproton import lib

__all__ = ["Installed", "has_scram", "installed", "report"]

_REBUILD = "pip install --force-reinstall --no-cache-dir --no-binary :all: python-qpid-proton"


class Installed(NamedTuple):
    """What the library says of itself."""

    version: str
    tls: bool
    sasl: bool
    """Whether it is linked to Cyrus SASL: SCRAM, GSSAPI and others; ANONYMOUS, PLAIN and EXTERNAL are always there."""


def installed() -> Installed:
    """Look at the library."""
    version = f"{lib.PN_VERSION_MAJOR}.{lib.PN_VERSION_MINOR}.{lib.PN_VERSION_POINT}"
    return Installed(version, bool(lib.pn_ssl_present()), has_scram())


def has_scram() -> bool:
    """Whether logins by SCRAM are possible."""
    return bool(lib.pn_sasl_extended())


def report() -> str:
    """Say for people what there is, and how to get what is missing."""
    found = installed()
    sasl = "ANONYMOUS, PLAIN, EXTERNAL"
    lines = [
        f"python-qpid-proton {found.version}",
        "TLS: yes, by Python's ssl module"
        + ("" if found.tls else " (proton itself was built without, which does not matter here)"),
        f"SASL: {sasl}, and SCRAM and others by Cyrus SASL" if found.sasl else f"SASL: {sasl}; no SCRAM",
    ]
    if not found.sasl:
        lines.append(f"  for SCRAM: apt install libsasl2-dev libsasl2-modules, then {_REBUILD}")
    return "\n".join(lines)
