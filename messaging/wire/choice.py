"""Which wire format a transport speaks: worked out once from its settings.

The formats of others are imported when they are asked for, because few programs ever need them.
"""

from __future__ import annotations

from typing import Any

from messaging.wire.base import Wire
from messaging.wire.native import NativeWire

__all__ = ["wire_of"]


def wire_of(settings: Any) -> Wire:
    """Return the wire of a driver's settings: `wire=`, native where the driver has no such option."""
    if getattr(settings, "wire", "native") == "native":
        return NativeWire()
    from messaging.wire.oslo import OsloWire

    return OsloWire(
        exchange=settings.control_exchange,
        notification_format=getattr(settings, "notification_format", "messagingv2"),
        context_inside=getattr(settings, "wire_dialect", "") == "kafka",
    )
