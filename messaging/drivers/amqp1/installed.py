"""What the installed proton can do: its version, TLS and SASL. For whoever asks `python -m messaging.drivers.amqp1`.

pip builds proton from its source, so what it can do is settled by the headers that were there on that day. This driver
takes nothing from it that may be missing: TLS is Python's, and the login is its own (sasl.py).
"""

from __future__ import annotations

from typing import NamedTuple

from cproton import lib

from messaging.drivers.amqp1.sasl import MECHANISMS

__all__ = ["Installed", "installed", "report"]


class Installed(NamedTuple):
    """What the library says of itself."""

    version: str
    tls: bool
    sasl: bool
    """Whether it is linked to Cyrus SASL."""


def installed() -> Installed:
    """Look at the library."""
    version = f"{lib.PN_VERSION_MAJOR}.{lib.PN_VERSION_MINOR}.{lib.PN_VERSION_POINT}"
    return Installed(version, bool(lib.pn_ssl_present()), bool(lib.pn_sasl_extended()))


def report() -> str:
    """Say for people what there is."""
    found = installed()
    lines = [
        f"python-qpid-proton {found.version}",
        "TLS: yes, by Python's ssl module"
        + ("" if found.tls else " (proton itself was built without, which does not matter here)"),
        f"SASL: {', '.join(MECHANISMS)}, by messaging itself"
        + ("" if found.sasl else " (proton itself was built without Cyrus SASL, which does not matter here)"),
    ]
    return "\n".join(lines)
