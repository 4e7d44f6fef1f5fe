"""The wire format of oslo.messaging 18, byte by byte, so that its services and ours call and notify each other.

Pure functions between bytes and the bodies of `messaging.wire.native`; what exchanges and queues carry them is the
business of each driver.
"""

from __future__ import annotations

from messaging.wire.oslo.wire import OsloWire

__all__ = ["OsloWire"]
