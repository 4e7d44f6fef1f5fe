"""The options of a transport URL that choose a wire format and its manner; drivers that can carry both declare them.

Types alone: what they mean for bytes is in the wire formats, what they mean for queues is each driver's business.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["ControlExchange", "NotificationFormat", "WireName"]

WireName = Annotated[
    Literal["native", "oslo"],
    msgspec.Meta(description="Format of the messages: the library's own, or that of oslo.messaging and its topology."),
]
ControlExchange = Annotated[
    str,
    msgspec.Meta(description="With wire=oslo: the exchange of targets that name none.", min_length=1, max_length=200),
]
NotificationFormat = Annotated[
    Literal["messagingv2", "messaging"],
    msgspec.Meta(description="With wire=oslo: how notifications are sent, with an envelope or without; both are read."),
]
