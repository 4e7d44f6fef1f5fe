"""How a connection is opened: the login, the host name, and what follows from the product that answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from messaging.drivers.amqp1.engine import Condition, Engine
from messaging.drivers.amqp1.options import Amqp1Settings, mechanisms
from messaging.drivers.amqp1.profiles import PROFILES, Profile, known_by
from messaging.drivers.amqp1.sasl import Login, LoginFailed, NotSasl
from messaging.drivers.base import Role
from messaging.drivers.logins import Logins
from messaging.drivers.tls import uses_tls
from messaging.errors import AuthFailed, ConfigError, ConnectFailed, Unsupported
from messaging.url import Host

__all__ = ["REFUSED", "Opening", "refusal_of"]

REFUSED = "amqp:connection-establishment-failed"
"""A property of an Open that is sent only because a Close, which says why, may not come before it."""
_UNAUTHORIZED = ("amqp:unauthorized-access", "amqp:not-allowed")
_WHO = "; does it want a user and password in the URL, or by credentials=?"
_RPC = (Role.RPC_CLIENT, Role.RPC_SERVER)


class Opening:
    """What one connection does at each opening. Belongs to its owner."""

    def __init__(self, settings: Amqp1Settings) -> None:
        self._settings = settings
        self._profile = PROFILES.get(settings.profile)
        self._hostname: str | None = None
        self._mechanisms: tuple[str, ...] = ()
        self._at_once = False
        self._given: tuple[str, str] | None = None
        self._logins = Logins()

    def login(self, host: Host, given: tuple[str, str] | None = None) -> Login:
        """Begin to say who this is. `given`: by credentials=, which goes before the URL."""
        login = self._given = given
        if login is None and host.username is not None:
            login = (host.username, host.password or "")
        self._mechanisms = mechanisms(self._settings, login is not None)
        self._hostname = self._wanted_hostname(self._profile)
        user, password = login or ("", "")
        return Login(self._mechanisms, user, password, self._hostname)

    def engine(self, container: str) -> Engine:
        """Make the engine of a connection whose login has succeeded."""
        return Engine(container=container, hostname=self._hostname, idle_timeout=2 * self._settings.heartbeat)

    def _wanted_hostname(self, profile: Profile | None) -> str | None:
        """The virtual host as the peer wants it; as it is while the peer is not known."""
        vhost = self._settings.url.vhost
        if not vhost:
            return None
        if profile is None:
            return vhost
        return profile.hostname.format(vhost) if profile.hostname else None

    def profile(self, properties: Mapping[str, Any], role: Role) -> Profile:
        """Choose the profile by what the peer says of itself. Raises ConfigError where that cannot be used, and
        ConnectFailed where it has to be opened once more.
        """
        product = str(properties.get("product", ""))
        version = str(properties.get("version", ""))
        told = f"{product or 'a product that does not name itself'} {version}".strip()
        known = known_by(product)
        chosen = PROFILES.get(self._settings.profile)
        if chosen is None:
            if known is None:
                raise ConfigError(
                    f"the peer is {told}, for which there is no profile; say which one it is like: "
                    f"profile={', '.join(PROFILES)}"
                )
            if known.routed:
                raise ConfigError(
                    f"the peer is {told}, a router, which stores nothing; say so by profile=router, because it changes "
                    "what is promised"
                )
            chosen = known
        elif known is not None and known is not chosen:
            raise ConfigError(f"the peer is {told}, not {chosen.title}; profile={known.name} is the one for it")
        if chosen.name == "rabbitmq" and not version.startswith("3."):
            raise ConfigError(
                f"the peer is {told}; amqp1:// knows the addresses of RabbitMQ 3 alone, so use rabbit:// for it"
            )
        if role in _RPC and chosen.refusal:
            raise Unsupported(
                f"amqp1:// carries notifications only there, because {chosen.refusal}; use rabbit:// for RPC"
            )
        if self._wanted_hostname(chosen) != self._hostname and chosen.hostname:
            self._profile = chosen
            self._at_once = True
            raise ConnectFailed(
                f"the peer is {told}, which is opened again with its own form of the virtual host; "
                f"profile={chosen.name} spares this"
            )
        return chosen

    def accepted(self) -> None:
        """The peer has let us in."""
        self._logins.accepted()

    def is_final(self, cause: Exception) -> bool:
        """Whether there is no use in another attempt after such an end."""
        if isinstance(cause, AuthFailed):
            return self._logins.refused(self._given)
        return isinstance(cause, ConfigError)

    def retry_at_once(self) -> float | None:
        """Seconds to the next try, where the last failure has shown what to do better; None: as always."""
        at_once, self._at_once = self._at_once, False
        return 0.001 if at_once else None

    def hint(self) -> str:
        """What may be missing where a peer ends the connection before the login."""
        if uses_tls(self._settings):
            return "; does it want a client certificate, or another one (tls_cert)?"
        return "; does it want TLS (tls=yes)?"

    def expected(self, *, connected: bool) -> str:
        """In what a peer that says nothing was addressed, which it may not speak on this port."""
        return "AMQP 1.0" if connected else "TLS" if uses_tls(self._settings) else "TCP"

    def login_failed(self, peer: str, login: Login, error: LoginFailed | NotSasl) -> Exception:
        """The error for a login that has failed."""
        if isinstance(error, NotSasl):
            hint = "; RabbitMQ needs its plugin rabbitmq_amqp1_0 (or use rabbit://)" if error.older else self.hint()
            return ConnectFailed(f"{peer} does not speak AMQP 1.0 with a login (SASL): {error}{hint}")
        mechanism = login.mechanism or ", ".join(self._mechanisms)
        told = f": {error}" if str(error) else ""
        if error.later:
            return ConnectFailed(f"{peer} cannot take a login by {mechanism}{told}")
        text = f"{peer} refused the login by {mechanism}{told}"
        return AuthFailed(text + (_WHO if self._mechanisms == ("ANONYMOUS",) else ""))


def refusal_of(condition: Condition | None, peer: str, settings: Amqp1Settings) -> Exception:
    """The error for a peer that closed the connection while it was opened."""
    told = str(condition) if condition is not None else "no reason given"
    if "hostname" in told.lower():
        return ConnectFailed(
            f"{peer} has no virtual host {settings.url.vhost!r}: {told}; name one behind the host, "
            "amqp1://host:port/vhost"
        )
    if condition is not None and condition.name in _UNAUTHORIZED:
        return AuthFailed(f"{peer} refused the connection: {told}{'' if _has_login(settings) else _WHO}")
    hint = "" if uses_tls(settings) else "; does it want TLS (tls=yes)?"
    return ConnectFailed(f"{peer} closed the connection while it was opened: {told}{hint}")


def _has_login(settings: Amqp1Settings) -> bool:
    return settings.credentials is not None or any(host.username is not None for host in settings.url.hosts)
