"""The same library for asyncio: `from messaging.aio import open_transport, rpc, notify`. Only this import, `await` and
`async with` change.
"""

from messaging.aio import rpc
from messaging.aio.transport import Transport, open_transport

__all__ = ["Transport", "open_transport", "rpc"]
