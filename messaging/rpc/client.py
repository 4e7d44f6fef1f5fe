"""The blocking RPC client: a caller waits on one raw lock per operation, and by its own clock.

Whoever ends an operation releases the lock; a caller whose time is up takes its own operation out of the table, and
where somebody else was faster it returns that outcome. So an answer is never lost between the two, whatever interrupts
the caller.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

from messaging.around import enter
from messaging.errors import Cancelled, StateError, Unsupported
from messaging.rpc.base_client import BaseClient, Kind, Operation
from messaging.rpc.pipeline import Pipeline, submit
from messaging.rpc.session import Fanout
from messaging.transport import Transport

__all__ = ["Client"]

P = ParamSpec("P")
R = TypeVar("R")


class Client(BaseClient):
    """A blocking client; thread-safe. Its verbs take the context (a mapping or None) and the method by position,
    arguments by name.

    The method is a name, or a function of the endpoint's class: then mypy checks the arguments, and the result is
    converted to the function's return annotation. `context`: a function that gives the context where None is passed.
    `exceptions`: classes that are raised as themselves when a server says it raised one. Other parameters: see
    `prepare`.
    """

    transport: Transport
    _face = Transport

    @overload
    def call(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    def call(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], R],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    def call(self, ctxt: Mapping[str, Any] | None, method: str, /, **kwargs: Any) -> Any: ...
    def call(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method on one server (or the prepared one) and return its result.

        Raises the declared exception of the handler, RemoteError (or a subclass) for others, DeadlineExceeded, NoRoute,
        ServerLost, ...: each with `.delivered`. StateError when called by the thread that does the I/O (an inline
        handler), which would wait for itself.
        """
        return self._run("call", ctxt, method, args, kwargs)

    @overload
    def cast(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None: ...
    @overload
    def cast(self, ctxt: Mapping[str, Any] | None, method: str, /, **kwargs: Any) -> None: ...
    def cast(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> None:
        """Hand a request to one server and return when a server or broker has taken it; to all, when prepared with
        fanout=True.
        """
        self._run(self._plan.cast_kind, ctxt, method, args, kwargs)

    @overload
    def fanout(
        self,
        ctxt: Mapping[str, Any] | None,
        method: Callable[Concatenate[Any, Any, P], Any],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Fanout: ...
    @overload
    def fanout(self, ctxt: Mapping[str, Any] | None, method: str, /, **kwargs: Any) -> Fanout: ...
    def fanout(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> Fanout:
        """Hand a request to every live server; returns how many took it and how many failed, None where nobody can
        know.
        """
        if self.transport.capabilities.fanout == "none":
            raise Unsupported(f"{self.transport.url.kind}:// has no fanout")
        return cast("Fanout", self._run("fanout", ctxt, method, args, kwargs))

    def submit(self, ctxt: Mapping[str, Any] | None, method: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call and return a Future of its result. Cancelling it cancels the call and tells the server."""
        return submit(self, ctxt, method, args, kwargs)

    def ping(self, timeout: float = 5.0) -> str:
        """Ask a server (or the prepared one) for its name: a round trip through its handlers."""
        namespace, method, _ = self.transport.wire.ping
        return cast("str", self.prepare(namespace=namespace, version="1.0", timeout=timeout).call(None, method))

    def pipeline(self) -> Pipeline:
        """Return a block in which many operations are sent without waiting; leaving it waits for every outcome.

        Failures are raised together as PipelineFailed, whose members have `.index`.
        """
        return Pipeline(self)

    def _run(self, kind: Kind, ctxt: Mapping[str, Any] | None, method: Any, args: Any, kwargs: Any) -> Any:
        if not self._around:
            return self._wait(kind, ctxt, method, args, kwargs, None)
        operation = self._operation(kind, ctxt, method)
        with ExitStack() as stack:
            enter(stack, self._around, operation)
            return self._wait(kind, ctxt, method, args, kwargs, operation)

    def _wait(
        self,
        kind: Kind,
        ctxt: Mapping[str, Any] | None,
        method: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operation: Operation | None,
    ) -> Any:
        bell = allocate_lock()
        bell.acquire()
        request = self._request(kind, ctxt, method, args, kwargs, bell.release, operation)
        session = request.session
        if self.transport.is_owner():
            raise StateError(
                "a blocking operation on the thread that does this transport's I/O would wait for itself; run it with "
                'executor="threads", make it async, or use submit() or cast through another transport'
            )
        try:
            answered = session.exchange(request, bell)
        except BaseException:
            # Ctrl-C, or another signal's exception: this caller goes, the others do not notice.
            session.abandon(request, Cancelled("the caller was interrupted"))
            raise
        if not answered and not session.abandon(request, request.expired()):
            # Somebody ended it at the same moment, and is between taking it out and ringing: the outcome counts.
            bell.acquire(timeout=1.0)
        return self._value(request, method)
