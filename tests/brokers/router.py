"""A message router for AMQP 1.0, where the machine has one: qpid-dispatch (qdrouterd) or skupper-router (skrouterd).

No package of Debian brings one, so tests over a router run where `installed()` finds it, and nobody fails without it.
"""

from __future__ import annotations

import shutil

from tests.brokers.server import Server, program

__all__ = ["Router", "installed"]

_PROGRAMS = ("skrouterd", "qdrouterd")
_DISTRIBUTIONS = {"multicast": "multicast", "unicast": "closest", "anycast": "balanced"}
"""How messages to addresses of each kind are distributed; the driver's default addresses ask for this."""


def installed() -> str:
    """The path of a router on this machine, or nothing."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), "")


class Router(Server):
    """A router of its own, which stores nothing and knows no other."""

    title = "a router"

    @property
    def url(self) -> str:
        return self.url_for("amqp1")

    def url_for(self, scheme: str) -> str:
        """The URL with another scheme."""
        return f"{scheme}://{self.host}:{self.port}/"

    def command(self) -> list[str]:
        path = program(*_PROGRAMS, cure="build it from source, github.com/skupperproject/skupper-router")
        return [path, "--conf", str(self.folder / "router.conf")]

    def prepare(self) -> None:
        parts = [
            _entity("router", mode="standalone", id=f"test-{self.port}"),
            _entity("listener", host=self.host, port=self.port, authenticatePeer="no", saslMechanisms="ANONYMOUS"),
        ]
        for purpose in ("rpc", "notify"):
            for kind, distribution in _DISTRIBUTIONS.items():
                prefix = f"openstack.org/om/{purpose}/{kind}"
                parts.append(_entity("address", prefix=prefix, distribution=distribution))
        (self.folder / "router.conf").write_text("\n".join(parts), encoding="ascii")


def _entity(kind: str, **attributes: str | int) -> str:
    return "\n".join([f"{kind} {{", *(f"    {name}: {value}" for name, value in attributes.items()), "}", ""])
