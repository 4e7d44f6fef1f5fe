"""A private Apache Artemis, embedded in a few lines of Java; AMQP 1.0 alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.brokers.certificates import Certificates
from tests.brokers.jars import fetched, java
from tests.brokers.ports import free_port
from tests.brokers.server import Server

__all__ = ["Artemis"]

_PROGRAM = Path(__file__).with_name("java") / "RunArtemis.java"
_RIGHTS = (
    "createNonDurableQueue",
    "deleteNonDurableQueue",
    "createDurableQueue",
    "deleteDurableQueue",
    "createAddress",
    "deleteAddress",
    "consume",
    "browse",
    "send",
    "manage",
)


class Artemis(Server):
    """An Artemis broker that makes addresses and queues on demand, with a dead-letter and an expiry queue.

    `auto_create`: whether it does that. `login`: ask for this user and password. `idle`: seconds of silence after
    which it gives a connection up. `certificates`: listen for TLS too, on `tls_port`. `durable`: keep stored messages
    through a restart. `forbidden`: addresses to which nobody has a right, with a login. `limits`: further settings of
    some addresses, by the pattern that matches them, each as XML. `memory`: bytes for all messages. `credits`: how many
    messages a sender is allowed at a time.
    """

    title = "Artemis"
    ready = "ARTEMIS READY"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        auto_create: bool = True,
        login: tuple[str, str] | None = None,
        idle: float = 60.0,
        certificates: Certificates | None = None,
        durable: bool = True,
        forbidden: Sequence[str] = (),
        limits: Mapping[str, str] | None = None,
        memory: int = 64 * 1024 * 1024,
        credits: int = 1000,
    ) -> None:
        super().__init__(folder)
        self.tls_port = free_port()
        self._auto_create = auto_create
        self._login = login
        self._idle = idle
        self._certificates = certificates
        self._durable = durable
        self._forbidden = forbidden
        self._limits = limits or {}
        self._memory = memory
        self._credits = credits

    @property
    def url(self) -> str:
        return self.url_for("amqp1")

    def url_for(self, scheme: str) -> str:
        """The URL with another scheme."""
        login = f"{self._login[0]}:{self._login[1]}@" if self._login else ""
        return f"{scheme}://{login}{self.host}:{self.port}/"

    def command(self) -> list[str]:
        classes = f"{fetched('artemis')}/*:{self.folder}"
        logging = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return [java(), "-Xmx512m", logging, "-cp", classes, str(_PROGRAM), *(self._login or ())]

    def prepare(self) -> None:
        (self.folder / "broker.xml").write_text(self._configuration(), encoding="utf-8")

    def _configuration(self) -> str:
        common = f"protocols=AMQP;amqpIdleTimeout={int(self._idle * 1000)}"
        common += f";amqpCredits={self._credits};amqpLowCredits={self._credits * 3 // 10}"
        acceptors = f'<acceptor name="plain">tcp://{self.host}:{self.port}?{common}</acceptor>'
        if self._certificates is not None:
            identity = self.folder / "identity.pem"
            identity.write_text(self._certificates.server_key.read_text() + self._certificates.server.read_text())
            keys = f"sslEnabled=true;keyStoreType=PEM;keyStorePath={identity}"
            acceptors += f'<acceptor name="tls">tcp://{self.host}:{self.tls_port}?{common};{keys}</acceptor>'
        secured = "".join(
            f'<security-setting match="{address}">{_rights(role)}</security-setting>'
            for address, role in {"#": "tests", **dict.fromkeys(self._forbidden, "nobody")}.items()
        )
        folders = "".join(
            f"<{kind}-directory>{self.folder / kind}</{kind}-directory>"
            for kind in ("journal", "bindings", "paging", "large-messages")
        )
        on_demand = "true" if self._auto_create else "false"
        limits = "".join(
            f'<address-setting match="{pattern}">{settings}</address-setting>'
            for pattern, settings in self._limits.items()
        )
        return f"""\
<configuration xmlns="urn:activemq"><core xmlns="urn:activemq:core">
 <persistence-enabled>{"true" if self._durable else "false"}</persistence-enabled>
 <journal-type>NIO</journal-type>{folders}<global-max-size>{self._memory}</global-max-size>
 <security-enabled>{"true" if self._login else "false"}</security-enabled>
 <security-settings>{secured}</security-settings>
 <acceptors>{acceptors}</acceptors>
 <addresses>
  <address name="DLQ"><anycast><queue name="DLQ"/></anycast></address>
  <address name="ExpiryQueue"><anycast><queue name="ExpiryQueue"/></anycast></address>
 </addresses>
 <address-settings><address-setting match="#">
  <auto-create-queues>{on_demand}</auto-create-queues><auto-create-addresses>{on_demand}</auto-create-addresses>
  <auto-delete-queues>true</auto-delete-queues>
  <default-address-routing-type>ANYCAST</default-address-routing-type>
  <default-queue-routing-type>ANYCAST</default-queue-routing-type>
  <dead-letter-address>DLQ</dead-letter-address><expiry-address>ExpiryQueue</expiry-address>
 </address-setting>{limits}</address-settings>
</core></configuration>
"""


def _rights(role: str) -> str:
    return "".join(f'<permission type="{right}" roles="{role}"/>' for right in _RIGHTS)
