"""The blocking RPC server: the core, started and stopped by callers that wait."""

from __future__ import annotations

from messaging.executor import Desk
from messaging.lifecycle import BlockingService
from messaging.rpc.base_server import ServerCore
from messaging.thread_reactor import ThreadReactor
from messaging.transport import Transport

__all__ = ["Server"]


class Server(BlockingService, ServerCore):
    """A blocking server. Build it, `start()` it, and `stop()` it; or use it in a `with` block. All methods are
    thread-safe.

    `endpoints`: objects whose exposed methods callers may reach; `async def` methods run on one loop in a thread of its
    own. `executor`: "threads" runs handlers on up to `slots` threads; "inline" runs them on the I/O thread, for
    handlers that never wait. `slots`: how many requests run at a time; `inbox`: how many may wait where the transport
    has no storage, before peers are told BUSY. `around`: context managers per request; `traces`: whether callers get
    the traceback of an undeclared exception as text.

    Raises InvalidTarget, ConfigError or Unsupported for what can be known now.
    """

    transport: Transport

    def _desk(self) -> Desk | None:
        reactor = self.transport.operations(self._role).reactor
        return reactor if isinstance(reactor, ThreadReactor) else None
