"""How much link credit to grant: what keeps unsettled deliveries within a window. Pure.

Credit is granted for room, and room comes from settling, so a consumer that does not finish its work is not sent more.
It is topped up in steps of half a window: a flow frame for every message costs, measured on three brokers with a window
of 8, half of the throughput.
"""

from __future__ import annotations

__all__ = ["change"]


def change(window: int, unsettled: int, credit: int) -> int:
    """Return by how much the credit is to be changed now; negative takes back what was granted.

    `unsettled` deliveries are in hand, `credit` is granted and not used yet.
    """
    room = window - unsettled - credit
    if room < 0:
        return -min(credit, -room)
    return room if room and (credit == 0 or 2 * room >= window) else 0
