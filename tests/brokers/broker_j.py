"""A private Apache Qpid Broker-J, embedded in a few lines of Java: AMQP 1.0 and 0-9-1 on one port.

Its virtual host is named "default", and the Open of a client has to name it: a host name or an address that the broker
does not know is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.brokers.certificates import Certificates
from tests.brokers.jars import fetched, java
from tests.brokers.ports import free_port
from tests.brokers.server import Server

__all__ = ["BrokerJ"]

_STORE_PASSWORD = "private"
_PROGRAM = Path(__file__).with_name("java") / "RunBrokerJ.java"


class BrokerJ(Server):
    """A Broker-J that keeps everything in memory.

    `auto_create`: whether a queue is made for an unknown address. `queues`: those that are there from the start.
    `login`: ask for this user and password, not for
    ANONYMOUS. `certificates`: listen on `tls_port` for clients with a certificate, too.
    """

    title = "Broker-J"
    ready = "BROKER-J READY"
    vhost = "default"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        auto_create: bool = True,
        queues: Sequence[str] = (),
        login: tuple[str, str] | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        super().__init__(folder)
        self.tls_port = free_port()
        self._auto_create = auto_create
        self._queues = queues
        self._login = login
        self._certificates = certificates

    @property
    def url(self) -> str:
        return self.url_for("amqp1")

    def url_for(self, scheme: str) -> str:
        """The URL with another scheme."""
        login = f"{self._login[0]}:{self._login[1]}@" if self._login else ""
        return f"{scheme}://{login}{self.host}:{self.port}/{self.vhost}"

    def command(self) -> list[str]:
        return [java(), "-Xmx512m", "-cp", f"{fetched('broker-j')}/*", str(_PROGRAM)]

    def prepare(self) -> None:
        (self.folder / "init.json").write_text(json.dumps(self._configuration()), encoding="utf-8")

    def _configuration(self) -> dict[str, object]:
        on_demand = {
            "pattern": ".*",
            # Booleans in their place keep the virtual host from starting.
            "createdOnPublish": "true",
            "createdOnConsume": "true",
            "nodeType": "queue",
            "attributes": {},
        }
        host = {
            "type": "Memory",
            "nodeAutoCreationPolicies": [on_demand] if self._auto_create else [],
            "queues": [{"name": name} for name in self._queues],
        }
        provider: dict[str, object] = {"name": "login", "type": "Anonymous"}
        if self._login is not None:
            user, password = self._login
            users = [{"name": user, "type": "managed", "password": password}]
            provider = {"name": "login", "type": "Plain", "users": users, "secureOnlyMechanisms": []}
        aliases = [{"name": "unnamed", "type": "defaultAlias"}, {"name": "named", "type": "nameAlias"}]
        port = {
            "name": "AMQP",
            "port": str(self.port),
            "bindingAddress": self.host,
            "authenticationProvider": "login",
            "virtualhostaliases": aliases,
        }
        node = {
            "name": self.vhost,
            "type": "Memory",
            "defaultVirtualHostNode": "true",
            "virtualHostInitialConfiguration": json.dumps(host),
        }
        made: dict[str, object] = {
            "name": "test",
            "modelVersion": "7.0",
            "authenticationproviders": [provider],
            "ports": [port],
            "virtualhostnodes": [node],
        }
        if self._certificates is not None:
            store = self._certificates.server_store(_STORE_PASSWORD).as_uri()
            made["keystores"] = [
                {"name": "key", "type": "FileKeyStore", "storeUrl": store, "password": _STORE_PASSWORD}
            ]
            authority = {"type": "NonJavaTrustStore", "certificatesUrl": self._certificates.authority.as_uri()}
            made["truststores"] = [{"name": "authority", **authority}]
            made["authenticationproviders"] = [provider, {"name": "certificate", "type": "External"}]
            secured = {
                **port,
                "name": "AMQPS",
                "port": str(self.tls_port),
                "transports": ["SSL"],
                "keyStore": "key",
                "trustStores": ["authority"],
                "needClientAuth": "true",
                "authenticationProvider": "certificate",
            }
            made["ports"] = [port, secured]
        return made
