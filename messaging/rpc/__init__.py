"""RPC: call, cast and fanout. `Client` and `Server` are the blocking ones; `messaging.aio.rpc` has the same names for
asyncio.
"""

from messaging.rpc.client import Client
from messaging.rpc.context import CurrentRequest, current
from messaging.rpc.dispatcher import ALL_METHODS, EXPOSED, PUBLIC_METHODS, expose
from messaging.rpc.pipeline import Pipeline
from messaging.rpc.server import Server
from messaging.rpc.session import Fanout

__all__ = [
    "ALL_METHODS",
    "EXPOSED",
    "PUBLIC_METHODS",
    "Client",
    "CurrentRequest",
    "Fanout",
    "Pipeline",
    "Server",
    "current",
    "expose",
]
