"""A private RabbitMQ: Debian's package, on ports and data of its own, without root.

Two things are not obvious. The program is the one in /usr/lib/rabbitmq/bin, because the one on the PATH changes the
user. And Erlang nodes find each other through epmd, a daemon on a fixed port which the first node starts and nobody
ends: here each broker has an epmd of its own, on a port of its own, which ends with it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.brokers.certificates import Certificates
from tests.brokers.ports import free_port
from tests.brokers.process import GuardedProcess, ServerFailed
from tests.brokers.server import Server, program

__all__ = ["CURE", "Rabbit"]

CURE = "install it with: apt-get install -y --no-install-recommends rabbitmq-server"
_PROGRAMS = "/usr/lib/rabbitmq/bin"


class Rabbit(Server):
    """A RabbitMQ node.

    `plugins`: names to enable. `settings`: further lines of rabbitmq.conf. `heartbeat`: seconds that it proposes.
    `certificates`: listen for TLS too, on `tls_port`, and take client certificates that its authority has signed.
    """

    title = "RabbitMQ"
    ready = "Server startup complete"

    def __init__(
        self,
        folder: Path | None = None,
        *,
        plugins: Sequence[str] = (),
        settings: Mapping[str, str | int] | None = None,
        heartbeat: int = 60,
        certificates: Certificates | None = None,
    ) -> None:
        super().__init__(folder)
        self.tls_port = free_port()
        self._distribution_port = free_port()
        self._names_port = free_port()
        self._names: GuardedProcess | None = None
        self._node = f"test{self.port}@localhost"
        self._certificates = certificates
        self._plugins = [*plugins, *(["rabbitmq_auth_mechanism_ssl"] if certificates else [])]
        self._settings: dict[str, str | int] = {
            "listeners.tcp.1": f"{self.host}:{self.port}",
            "heartbeat": heartbeat,
            "log.console": "true",
            "log.file": "false",
            # A test machine's disk may be small; a test of the alarm sets its own.
            "disk_free_limit.absolute": "50MB",
        }
        if certificates is not None:
            self._settings |= {
                "listeners.ssl.1": f"{self.host}:{self.tls_port}",
                "ssl_options.cacertfile": str(certificates.authority),
                "ssl_options.certfile": str(certificates.server),
                "ssl_options.keyfile": str(certificates.server_key),
                "ssl_options.verify": "verify_peer",
                "ssl_options.fail_if_no_peer_cert": "false",
                "auth_mechanisms.1": "PLAIN",
                "auth_mechanisms.2": "AMQPLAIN",
                "auth_mechanisms.3": "EXTERNAL",
                "ssl_cert_login_from": "common_name",
            }
        self._settings |= settings or {}

    # Addresses

    @property
    def url(self) -> str:
        return self.url_for("rabbit")

    def url_for(self, scheme: str, user: str = "guest", password: str = "guest", vhost: str = "") -> str:
        """The URL with another scheme, login or virtual host (given as it is; "" is the default one)."""
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"{scheme}://{login}@{self.host}:{self.port}/{quote(vhost, safe='')}"

    # Starting

    def command(self) -> list[str]:
        return [program(f"{_PROGRAMS}/rabbitmq-server", cure=CURE)]

    def environment(self) -> Mapping[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return own | {
            "HOME": str(self.folder),  # the cookie with which rabbitmqctl proves itself lies there
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none.conf"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            # Schedulers that wait by spinning take the processor from the programs under test.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
            # Erlang in place of the shell, so that signals reach it.
            "RUNNING_UNDER_SYSTEMD": "1",
            "ERL_EPMD_PORT": str(self._names_port),
            "ERL_EPMD_ADDRESS": self.host,
            "LANG": "C.UTF-8",
        }

    def prepare(self) -> None:
        for name in ("data", "log"):
            (self.folder / name).mkdir(exist_ok=True)
        plugins = ",".join(self._plugins)
        (self.folder / "enabled_plugins").write_text(f"[{plugins}].\n", encoding="utf-8")
        lines = [f"{name} = {value}" for name, value in self._settings.items()]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def start(self) -> None:
        if self._names is None or not self._names.running:
            command = [program("epmd", "/usr/lib/erlang/bin/epmd", cure=CURE)]
            self._names = GuardedProcess(command, self.environment(), self.folder, self.folder / "epmd.log")
            self._names.wait_for_port(self.host, self._names_port, self.patience)
        super().start()

    def close(self) -> None:
        if self._names is not None:
            self._names.kill()
        super().close()

    # Operating it

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl on this node, quietly, and return what it wrote. About a second of processor time."""
        command = [program(f"{_PROGRAMS}/rabbitmqctl", cure=CURE), "--quiet", "--node", self._node, *arguments]
        done = subprocess.run(command, env=self.environment(), cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise ServerFailed(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def _listed(self, *arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ctl("--formatter", "json", *arguments) or "[]")
        return [{name: _plain(value) for name, value in row.items()} for row in found]

    def queues(self, vhost: str = "/") -> list[dict[str, Any]]:
        """All queues: name, durable, exclusive, auto_delete, arguments, messages (all of them, those that somebody
        holds included), messages_unacknowledged, consumers.
        """
        told = ["name", "durable", "exclusive", "auto_delete", "arguments"]
        counted = ["messages", "messages_unacknowledged", "consumers"]
        return self._listed("list_queues", "--vhost", vhost, *told, *counted)

    def exchanges(self, vhost: str = "/") -> list[dict[str, Any]]:
        """All exchanges: name, type, durable, auto_delete, arguments."""
        return self._listed("list_exchanges", "--vhost", vhost, "name", "type", "durable", "auto_delete", "arguments")

    def connections(self) -> list[dict[str, Any]]:
        """All connections: user, vhost, peer_port (the client's own), channels, state, client_properties."""
        return self._listed("list_connections", "user", "vhost", "peer_port", "channels", "state", "client_properties")

    def channels(self) -> list[dict[str, Any]]:
        """All channels: number, confirm, consumer_count, prefetch_count, messages_unacknowledged (delivered),
        messages_unconfirmed (published).
        """
        counted = ["consumer_count", "prefetch_count", "messages_unacknowledged", "messages_unconfirmed"]
        return self._listed("list_channels", "number", "confirm", *counted)

    def add_user(self, name: str, password: str, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """Make a user for the default virtual host; the patterns say what it may declare, publish to and consume."""
        self.ctl("add_user", name, password)
        self.ctl("set_permissions", name, configure, write, read)

    def delete_queue(self, name: str, vhost: str = "/") -> None:
        """Delete a queue, with what lies in it."""
        self.ctl("delete_queue", "--vhost", vhost, name)

    def add_vhost(self, name: str, user: str = "guest") -> None:
        """Make a virtual host, open to a user."""
        self.ctl("add_vhost", name)
        self.ctl("set_permissions", "--vhost", name, user, ".*", ".*", ".*")

    def close_connections(self, reason: str = "closed by a test") -> None:
        """Close all connections from the broker's side."""
        self.ctl("close_all_connections", reason)

    def close_connection(self, peer_port: int, reason: str = "closed by a test") -> None:
        """Close the connection of the client that has this port."""
        # As a table: only there is a pid written as close_connection reads it.
        rows = [line.split("\t") for line in self.ctl("list_connections", "pid", "peer_port").splitlines()]
        for pid, port in rows:
            if port == str(peer_port):
                self.ctl("close_connection", pid, reason)

    def block(self) -> None:
        """Raise the memory alarm: publishers are blocked."""
        self.ctl("set_vm_memory_high_watermark", "0")

    def unblock(self) -> None:
        """Clear the memory alarm."""
        self.ctl("set_vm_memory_high_watermark", "0.4")


def _plain(value: Any) -> Any:
    """A table of AMQP, which rabbitmqctl writes as [name, type, value] each, as a dict."""
    if isinstance(value, list) and all(isinstance(entry, list) and len(entry) == 3 for entry in value):
        return {name: _plain(inner) for name, _, inner in value}
    return value
