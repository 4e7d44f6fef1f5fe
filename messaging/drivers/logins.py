"""Whether there is any use in a login after one that was refused. Pure, and the same for every driver with a login.

One that stands in the URL is refused for good. Whoever is asked at each connect (`credentials=`) may have another one
by now, so he is asked once more, and only the same answer again is final.
"""

from __future__ import annotations

__all__ = ["Logins"]


class Logins:
    """The logins of one connection."""

    def __init__(self) -> None:
        self._refused: tuple[str, str] | None = None

    def accepted(self) -> None:
        """The last one was good: the next refusal is the first one."""
        self._refused = None

    def refused(self, given: tuple[str, str] | None) -> bool:
        """Note that a login was refused; whether for good. `given`: what the one who is asked said; None: there is
        nobody to be asked.
        """
        before, self._refused = self._refused, given
        return given is None or before == given
