"""Entering the context managers of `around=`: one per operation, in order, left in reverse order.

They are what users wrap operations in: tracing, authorisation, database sessions. The blocking side takes ordinary
context managers; the asyncio side takes both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, ExitStack
from typing import Any

from messaging.errors import ConfigError

__all__ = ["enter", "enter_async"]


def enter(stack: ExitStack, factories: Sequence[Callable[[Any], Any]], subject: Any) -> None:
    """Enter the context manager that each factory makes for `subject`. Raises ConfigError for an asynchronous one."""
    for factory in factories:
        manager = factory(subject)
        if not isinstance(manager, AbstractContextManager):
            raise ConfigError(
                f"around= of the blocking face takes context managers, and {factory!r} returned {manager!r}"
            )
        stack.enter_context(manager)


async def enter_async(stack: AsyncExitStack, factories: Sequence[Callable[[Any], Any]], subject: Any) -> None:
    """The same where one may await: both kinds of context managers are entered."""
    for factory in factories:
        manager = factory(subject)
        if isinstance(manager, AbstractAsyncContextManager):
            await stack.enter_async_context(manager)
        elif isinstance(manager, AbstractContextManager):
            stack.enter_context(manager)
        else:
            raise ConfigError(f"around= takes context managers, and {factory!r} returned {manager!r}")
