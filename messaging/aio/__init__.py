"""The same library for asyncio: `from messaging.aio import open_transport, rpc, notify`. Only this import, `await` and
`async with` change.
"""

from messaging.aio import notify, rpc
from messaging.aio.transport import Transport, open_transport

__all__ = ["Transport", "notify", "open_transport", "rpc"]
