"""What a scenario is: a name, a promise in one line, what it needs, and the function that proves it.

Needs are names of capabilities (`direct`), or a name and the values that will do (`ordering=key|queue`). So whoever
declares less is asked less, and the suite says in so many words what was not asked. Hooks are what only the author of a
driver can do to it from outside: break a connection, give an address where nobody is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from messaging.drivers.base import Capabilities
from messaging.testing.conformance.faces import FACES

if TYPE_CHECKING:
    from messaging.testing.conformance.case import Case

__all__ = ["DRIVER", "HOOKS", "Group", "Scenario"]

DRIVER = ("driver",)
"""The faces of a scenario that pumps a bare connection: it has none, and runs once."""
HOOKS = ("block", "disconnect", "heartbeat", "limited", "stall", "unreachable")
"""What a scenario may ask of its subject; see Subject."""
_NOTHING = (False, None, "none", "never", 0.0)


@dataclass(frozen=True)
class Scenario:
    """One promise and its proof. `run` raises Failure, or whatever the library raised, when it is not kept."""

    name: str
    promise: str
    group: str
    needs: tuple[str, ...]
    hooks: tuple[str, ...]
    faces: tuple[str, ...]
    run: Callable[[Case], None]

    def unmet(self, capabilities: Capabilities) -> list[str]:
        """The needs that these capabilities do not meet; empty: the promise is given."""
        return [need for need in self.needs if not _met(need, capabilities)]


class Group:
    """The scenarios of one subject, in the order in which they are read; `add` is a decorator."""

    def __init__(self, name: str, needs: Sequence[str] = (), faces: tuple[str, ...] = FACES) -> None:
        self.name = name
        self.scenarios: list[Scenario] = []
        self._needs = tuple(needs)
        self._faces = faces

    def add(
        self,
        promise: str,
        *,
        needs: Sequence[str] = (),
        hooks: Sequence[str] = (),
        faces: tuple[str, ...] | None = None,
    ) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
        """Register a function as the proof of a promise; its name becomes the scenario's."""
        for need in (*self._needs, *needs):
            if need.partition("=")[0] not in Capabilities.__struct_fields__:
                raise ValueError(f"{need!r} is no capability; those are {', '.join(Capabilities.__struct_fields__)}")
        for hook in hooks:
            if hook not in HOOKS:
                raise ValueError(f"{hook!r} is no hook; those are {', '.join(HOOKS)}")

        def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
            self.scenarios.append(
                Scenario(
                    name=function.__name__,
                    promise=promise,
                    group=self.name,
                    needs=(*self._needs, *needs),
                    hooks=tuple(hooks),
                    faces=faces or self._faces,
                    run=function,
                )
            )
            return function

        return register


def _met(need: str, capabilities: Capabilities) -> bool:
    name, _, values = need.partition("=")
    declared = getattr(capabilities, name)
    return str(declared) in values.split("|") if values else declared not in _NOTHING
