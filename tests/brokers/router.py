"""A message router for AMQP 1.0, where the machine has one: qpid-dispatch (qdrouterd) or skupper-router (skrouterd).

No package of Debian brings one. So tests over a router exist for each program that `installed()` finds on the PATH,
nobody fails without, and the head of every run says which there are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.brokers.certificates import Certificates
from tests.brokers.ports import free_port
from tests.brokers.server import Server, program

__all__ = ["PROGRAMS", "Router", "RouterOfTests", "installed", "listed"]

PROGRAMS = ("qdrouterd", "skrouterd")
_DISTRIBUTIONS = {"multicast": "multicast", "unicast": "closest", "anycast": "balanced"}
"""How messages to addresses of each kind are distributed; the driver's default addresses ask for this."""
_MECHANISMS = "PLAIN SCRAM-SHA-1 SCRAM-SHA-256 SCRAM-SHA-512"


def installed() -> tuple[str, ...]:
    """The programs of routers on this machine."""
    return tuple(name for name in PROGRAMS if shutil.which(name) is not None)


def listed() -> str:
    """Say for people on which routers the tests run."""
    found = {name: shutil.which(name) for name in PROGRAMS}
    there = [f"{name} at {path}" for name, path in found.items() if path is not None]
    missing = [name for name, path in found.items() if path is None]
    told = f"AMQP 1.0 routers: the one of the tests{''.join(f', {each}' for each in there)}"
    return f"{told}; not on the PATH, so not run on: {', '.join(missing)}" if missing else told


class Router(Server):
    """A router of its own, which stores nothing and knows no other.

    `login`: a user and password to ask for, whose user the router knows as `user@tests`. `certificates`: listen on
    `tls_port` for clients with a certificate, too.
    """

    title = "a router"

    def __init__(
        self,
        folder: Path | None = None,
        kind: str = "",
        *,
        login: tuple[str, str] | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        super().__init__(folder)
        self.tls_port = free_port()
        self._kind = kind
        self._login = login
        self._certificates = certificates

    @property
    def url(self) -> str:
        return self.url_for("amqp1")

    def url_for(self, scheme: str) -> str:
        """The URL with another scheme."""
        login = f"{self._login[0]}%40tests:{self._login[1]}@" if self._login else ""
        return f"{scheme}://{login}{self.host}:{self.port}/"

    def command(self) -> list[str]:
        candidates = (self._kind,) if self._kind else PROGRAMS
        path = program(*candidates, cure="build it from source, github.com/skupperproject/skupper-router")
        return [path, "--conf", str(self.folder / "router.conf")]

    def prepare(self) -> None:
        parts = [
            _entity(
                "router", mode="standalone", id=f"test-{self.port}", saslConfigDir=self.folder, saslConfigName="sasl"
            ),
            _entity("listener", host=self.host, port=self.port, **self._authentication()),
        ]
        if self._certificates is not None:
            parts += self._secured(self._certificates)
        for purpose in ("rpc", "notify"):
            for kind, distribution in _DISTRIBUTIONS.items():
                prefix = f"openstack.org/om/{purpose}/{kind}"
                parts.append(_entity("address", prefix=prefix, distribution=distribution))
        (self.folder / "router.conf").write_text("\n".join(parts), encoding="ascii")

    def _authentication(self) -> dict[str, str]:
        if self._login is None:
            return {"authenticatePeer": "no", "saslMechanisms": "ANONYMOUS"}
        user, password = self._login
        users = self.folder / "users"
        settings = {
            "pwcheck_method": "auxprop",
            "auxprop_plugin": "sasldb",
            "sasldb_path": str(users),
            "mech_list": f"EXTERNAL ANONYMOUS {_MECHANISMS}",
        }
        lines = [f"{name}: {value}" for name, value in settings.items()]
        (self.folder / "sasl.conf").write_text("\n".join([*lines, ""]), encoding="ascii")
        passwords = program("saslpasswd2", cure="install it with: apt-get install -y sasl2-bin libsasl2-modules")
        command = [passwords, "-c", "-p", "-f", str(users), "-u", "tests", user]
        subprocess.run(command, input=password.encode(), check=True, capture_output=True)
        return {"authenticatePeer": "yes", "saslMechanisms": _MECHANISMS}

    def _secured(self, certificates: Certificates) -> list[str]:
        files = {
            "certFile": certificates.server,
            "privateKeyFile": certificates.server_key,
            "caCertFile": certificates.authority,
        }
        asked = {"requireSsl": "yes", "authenticatePeer": "yes", "saslMechanisms": "EXTERNAL"}
        return [
            _entity("sslProfile", name="tests", **files),
            _entity("listener", host=self.host, port=self.tls_port, sslProfile="tests", **asked),
        ]


class RouterOfTests(Server):
    """The router that the tests have everywhere, as a process that can be killed."""

    title = "the router of the tests"

    @property
    def url(self) -> str:
        return f"amqp1://{self.host}:{self.port}/"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.unit.amqp1_router", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        """The environment of the process."""
        return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def _entity(kind: str, **attributes: str | int | Path) -> str:
    return "\n".join([f"{kind} {{", *(f"    {name}: {value}" for name, value in attributes.items()), "}", ""])
