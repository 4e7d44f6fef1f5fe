"""A private Apache Kafka in KRaft mode: one process that is broker and controller."""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from tests.brokers.certificates import Certificates
from tests.brokers.jars import fetched, java
from tests.brokers.ports import free_port
from tests.brokers.process import ServerFailed
from tests.brokers.server import Server

__all__ = ["Kafka"]

_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %c: %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.ready.name = kafka.server.KafkaRaftServer
logger.ready.level = info
"""
_SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")


def _login_modules(listener: str, user: str, password: str) -> dict[str, str | int]:
    """The settings by which a listener lets one user in."""
    modules = "org.apache.kafka.common.security"
    scram = f"{modules}.scram.ScramLoginModule required;"
    plain = f'{modules}.plain.PlainLoginModule required user_{user}="{password}";'
    entries = {"PLAIN": plain, **dict.fromkeys(_SCRAM, scram)}
    return {f"listener.name.{listener}.{name.lower()}.sasl.jaas.config": entry for name, entry in entries.items()}


class Kafka(Server):
    """A Kafka broker. The plain port is always open, and so is `proxied_listen`.

    `settings`: further lines of server.properties. `login`: listen on `sasl_port` too, for this user and password, by
    PLAIN or SCRAM. `certificates`: listen for TLS too, on `tls_port`; with a certificate of another name on
    `misnamed_port`; for clients that have a certificate on `mutual_port`. With both, on `secure_port` for the login
    over TLS.

    Kafka's clients go where the broker tells them to, so a proxy in between has to be announced: what listens on
    `proxied_listen` tells its clients to come to `proxied_port`, where a test may put a proxy.
    """

    title = "Kafka"
    ready = "Kafka Server started"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        settings: Mapping[str, str | int] | None = None,
        login: tuple[str, str] | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        super().__init__(folder)
        self.sasl_port, self.tls_port, self.proxied_listen, self.proxied_port = (free_port() for _ in range(4))
        self.secure_port, self.mutual_port, self.misnamed_port = (free_port() for _ in range(3))
        self._login = login
        controller = free_port()
        listeners = [("PLAIN", "PLAINTEXT", self.port), ("PROXIED", "PLAINTEXT", self.proxied_listen)]
        self._settings: dict[str, str | int] = {}
        if login is not None:
            listeners.append(("LOGIN", "SASL_PLAINTEXT", self.sasl_port))
            self._settings["sasl.enabled.mechanisms"] = ",".join(("PLAIN", *_SCRAM))
        if certificates is not None:
            listeners.append(("TLS", "SSL", self.tls_port))
            listeners.append(("MUTUAL", "SSL", self.mutual_port))
            listeners.append(("MISNAMED", "SSL", self.misnamed_port))
            self._settings |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": self._identity(certificates.server_key, certificates.server),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(certificates.authority),
                "listener.name.mutual.ssl.client.auth": "required",
                "listener.name.misnamed.ssl.keystore.type": "PEM",
                "listener.name.misnamed.ssl.keystore.location": self._identity(
                    certificates.other_key, certificates.other
                ),
            }
        if login is not None and certificates is not None:
            listeners.append(("SECURE", "SASL_SSL", self.secure_port))
        if login is not None:
            for listener in [name for name, kind, _ in listeners if kind.startswith("SASL")]:
                self._settings |= _login_modules(listener.lower(), *login)
        kinds = [*((name, kind) for name, kind, _ in listeners), ("CONTROLLER", "PLAINTEXT")]
        addresses = ",".join(f"{name}://{self.host}:{port}" for name, _, port in listeners)
        self._settings |= {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{self.host}:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{addresses},CONTROLLER://{self.host}:{controller}",
            "advertised.listeners": addresses.replace(str(self.proxied_listen), str(self.proxied_port)),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in kinds),
            "inter.broker.listener.name": "PLAIN",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": 1,
            # Fifty partitions are made at the first commit otherwise, which takes seconds.
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # After a SIGKILL the broker may not come back before its former self is given up: 9 s by default.
            "broker.session.timeout.ms": 2000,
            "broker.heartbeat.interval.ms": 500,
            # Tests may ask for a member to be missed soon.
            "group.min.session.timeout.ms": 500,
            "group.consumer.min.session.timeout.ms": 1000,
            "group.consumer.session.timeout.ms": 6000,
            "group.consumer.min.heartbeat.interval.ms": 200,
            "group.consumer.heartbeat.interval.ms": 500,
            "auto.create.topics.enable": "true",
        }
        self._settings |= settings or {}

    def _identity(self, key: Path, certificate: Path) -> str:
        """Put a key and its certificate into one file, and return its path."""
        identity = self.folder / f"identity-{certificate.name}"
        identity.write_text(key.read_text() + certificate.read_text(), "ascii")
        return str(identity)

    @property
    def url(self) -> str:
        return self.url_for("kafka")

    def url_for(self, scheme: str) -> str:
        """The URL with another scheme."""
        return f"{scheme}://{self.bootstrap}/"

    @property
    def sasl_url(self) -> str:
        """The URL with the login."""
        return self._with_login(self.sasl_port)

    @property
    def secure_url(self) -> str:
        """The URL with the login, of the port for TLS."""
        return self._with_login(self.secure_port)

    def _with_login(self, port: int) -> str:
        assert self._login is not None, "this broker asks for no login"
        return f"kafka://{self._login[0]}:{self._login[1]}@{self.host}:{port}/"

    @property
    def tls_url(self) -> str:
        """The URL of the port for TLS, by the address that stands in the certificate."""
        return f"kafka://{self.host}:{self.tls_port}/"

    @property
    def bootstrap(self) -> str:
        """Where Kafka's clients begin: host:port."""
        return f"{self.host}:{self.port}"

    def _java(self, *arguments: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return [java(), "-Xmx512m", logging, "-cp", f"{fetched('kafka')}/*", *arguments]

    def command(self) -> list[str]:
        return self._java("kafka.Kafka", str(self.folder / "server.properties"))

    def prepare(self) -> None:
        properties = "".join(f"{name}={value}\n" for name, value in self._settings.items())
        (self.folder / "server.properties").write_text(properties, encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
        # A zero byte first: one name in 64 would begin with a hyphen, and be taken for an option.
        cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        format_ = ["kafka.tools.StorageTool", "format", "--cluster-id", cluster]
        if self._login is not None:
            user, password = self._login
            for mechanism in _SCRAM:
                format_ += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        command = self._java(*format_, "-c", str(self.folder / "server.properties"))
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder)
        if done.returncode:
            raise ServerFailed(f"Kafka could not format its folder: {done.stdout}{done.stderr}")
