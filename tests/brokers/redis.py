"""A private redis, in memory alone unless asked to keep its data."""

from __future__ import annotations

from pathlib import Path

from tests.brokers.server import Server, program

__all__ = ["CURE", "Redis"]

CURE = "install it with: apt-get install -y --no-install-recommends redis-server"


class Redis(Server):
    """A redis server. `password`: what it asks for. `durable`: write each change to the disk before it is answered.
    `options`: further ones, as on its command line without the dashes.
    """

    title = "redis"
    ready = "Ready to accept connections"

    def __init__(
        self, folder: Path | None = None, *, password: str = "", durable: bool = False, options: tuple[str, ...] = ()
    ) -> None:
        super().__init__(folder)
        self._password = password
        self._durable = durable
        self._options = options

    @property
    def url(self) -> str:
        return self.url_for("redis")

    def url_for(self, scheme: str, database: int = 0) -> str:
        """The URL with another scheme, for example kombu+redis or zmq+redis."""
        login = f":{self._password}@" if self._password else ""
        return f"{scheme}://{login}{self.host}:{self.port}/{database}"

    def command(self) -> list[str]:
        command = [program("redis-server", cure=CURE), "--bind", self.host, "--port", str(self.port), "--save", ""]
        if self._password:
            command += ["--requirepass", self._password]
        if self._durable:
            command += ["--appendonly", "yes", "--appendfsync", "always"]
        for option in self._options:
            name, _, value = option.partition(" ")
            command += [f"--{name}", value]
        return command
