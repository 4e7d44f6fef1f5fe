"""Whether brokers can be reached: the states of a connection, and when the next look is due.

The client library reconnects by itself and tells that all its connections are gone, but never that they are back. So
the cluster is asked a question over a connection of its own, with backoff between two tries; after an outage each
client is asked one too, since each has connections of its own. An answer from all of them means READY.

Nor does the library always tell that all are gone: not when the last one goes in the milliseconds in which another is
being given up, and then not for as long as the outage lasts (seen in 1 of 60 cuts right after a reconnect). So the
cluster is also asked when a client tells that it could not connect to some broker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaException

from messaging.backoff import Backoff
from messaging.drivers.base import Services, State
from messaging.drivers.kafka import clients, configuration
from messaging.drivers.kafka.options import KafkaSettings
from messaging.drivers.kafka.reasons import code_of
from messaging.errors import AuthFailed, ConfigError, ConnectFailed

__all__ = ["Contact"]

Told = tuple[State, Exception | None, float | None]


class Contact:
    """The state of one connection. Owner only; `post` takes the results of offloaded work to the owner."""

    def __init__(
        self,
        settings: KafkaSettings,
        services: Services,
        post: Callable[[Callable[[], None]], None],
        connected: Callable[[configuration.Login], None],
        checks: Callable[[], Sequence[Callable[[float], object]]],
    ) -> None:
        self._settings = settings
        self._services = services
        self._post = post
        self._connected = connected
        """Told before READY, with the login that the brokers have just taken."""
        self._checks = checks
        """Gives a question for each client; it takes a timeout, blocks, and raises where no broker answers."""
        self._backoff = Backoff(initial=0.1, maximum=2.0, source=services.random)
        self.state: State | None = None
        self.told: list[Told] = []
        """Changes of state that nobody has told yet."""
        self.due = 0.0
        """When `step` wants to be called."""
        self.ended = False
        """No further try will be made."""
        self.reconnects = 0
        self.asking = False
        """Clients are being asked: a consumer that is polled meanwhile would keep its answer back."""
        self._doubting = False
        """The cluster is being asked whether brokers are left."""
        self._doubt_from = 0.0

    @property
    def _in_contact(self) -> bool:
        return self.state is State.READY or self.state is State.BLOCKED

    def step(self, now: float) -> None:
        """Begin a try where one is due."""
        if self.ended or self.asking or now < self.due:
            return
        self.due = math.inf
        if self._in_contact:
            self._doubting = True
            self._doubt_from = now + self._settings.heartbeat
            self._services.offload(self._ask, lambda user, error: self._post(lambda: self._doubted(error)))
            return
        self.asking = True
        self.become(State.CONNECTING)
        checks = self._checks()

        def look() -> configuration.Login:
            user = self._ask()
            for check in checks:
                check(self._settings.connect_timeout)
            return user

        self._services.offload(look, lambda user, error: self._post(lambda: self._looked(user, error)))

    def _ask(self) -> configuration.Login:
        """Ask the cluster who it is; blocks. Returns the login that was taken, and raises where there is no answer."""
        settings = self._settings
        user = configuration.login(settings)
        conf = configuration.common(settings, user, clients.client_id(settings.client_id, "contact"))
        futures = clients.ask(
            configuration.urgent(conf),
            lambda admin: {"cluster": admin.describe_cluster(request_timeout=settings.connect_timeout)},
            settings.connect_timeout,
        )
        futures["cluster"].result()
        return user

    def doubt(self) -> None:
        """A client could not connect to a broker: have it asked whether any is left, at most once per heartbeat."""
        if self._in_contact and not self._doubting:
            self.due = min(self.due, self._doubt_from)

    def _doubted(self, error: BaseException | None) -> None:
        self._doubting = False
        # Who refuses a login is there; and what else goes wrong here is no word of a broker's.
        nobody = isinstance(error, ConnectFailed | KafkaException) and not isinstance(error, AuthFailed)
        if isinstance(error, Exception) and nobody and self._in_contact:
            self.lost(error)

    def _looked(self, user: configuration.Login, error: BaseException | None) -> None:
        self.asking = False
        if self.ended:
            return
        if error is None:
            if self.state is State.CONNECTING:
                self._connected(user)
                self.become(State.READY)
            return
        self.lost(error if isinstance(error, Exception) else ConnectFailed(repr(error)))

    def lost(self, cause: Exception) -> None:
        """No broker is connected any more; or that one refuses us, which ends it."""
        if self.ended or self.state is State.LOST:
            return
        if not isinstance(cause, AuthFailed | ConfigError | ConnectFailed):
            failure = code_of(cause)
            told = f"{failure.str()} ({failure.name()})" if failure is not None else str(cause)
            wrapped = ConnectFailed(f"no Kafka broker could be asked: {told}")
            wrapped.__cause__ = cause
            cause = wrapped
        if isinstance(cause, AuthFailed | ConfigError):
            self.ended = True
            self.due = math.inf
            self.become(State.LOST, cause)
            return
        if self._in_contact:
            self.reconnects += 1
        delay = self._backoff.next()
        self.due = self._services.clock() + delay
        self.become(State.LOST, cause, delay)

    def whole(self) -> None:
        """Everything that was subscribed is back."""
        self._backoff.reset()

    def become(self, state: State, cause: Exception | None = None, retry_in: float | None = None) -> None:
        """Note a state for telling."""
        if state is not self.state:
            self.state = state
            self.told.append((state, cause, retry_in))
