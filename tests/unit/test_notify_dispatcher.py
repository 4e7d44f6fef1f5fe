"""Which handlers a notification finds, and which endpoints are refused when a listener is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from messaging import notify
from messaging.errors import ConfigError, DecodeError
from messaging.notify import Event
from messaging.notify.dispatcher import Dispatcher


@dataclass
class Instance:
    id: int


class Typed:
    @notify.on("instance.create.*", "instance.delete.*", level="info")
    def lifecycle(self, event: notify.Event[Instance]) -> None: ...

    @notify.on("*", level=["error", "critical"])
    def trouble(self, event: notify.Event[Any]) -> None: ...


class Classic:
    filter_rule = notify.Filter(publisher_id="compute")

    def info(self, ctxt: Any, publisher_id: Any, event_type: Any, payload: Any, metadata: Any) -> None: ...

    def warning(self, ctxt: Any, publisher_id: Any, event_type: Any, payload: Any, metadata: Any) -> None: ...


def _event(event_type: str = "instance.create.end", level: str = "info", publisher: str = "compute.1") -> Event[Any]:
    return Event(
        event_type=event_type,
        publisher_id=publisher,
        level=level,
        payload={"id": 1},
        context={},
        timestamp=0.0,
        message_id="m",
        headers={},
    )


def _names(dispatcher: Dispatcher, event: Event[Any]) -> list[str]:
    return [handler.name for handler in dispatcher.find(event)]


def test_levels_patterns_and_filters_choose() -> None:
    """All handlers that want an event are found, in the order of the endpoints."""
    dispatcher = Dispatcher([Classic(), Typed()])
    assert _names(dispatcher, _event()) == ["Classic.info", "Typed.lifecycle"]
    assert _names(dispatcher, _event("instance.delete.end")) == ["Classic.info", "Typed.lifecycle"]
    assert _names(dispatcher, _event("instance.resize")) == ["Classic.info"]
    assert _names(dispatcher, _event(level="critical")) == ["Typed.trouble"]
    assert _names(dispatcher, _event(level="warn")) == ["Classic.warning"]
    assert _names(dispatcher, _event(publisher="network.1")) == ["Typed.lifecycle"]
    assert _names(dispatcher, _event(level="sample")) == []
    assert dispatcher.levels == {"info", "warn", "error", "critical"}


def test_a_payload_is_converted_to_the_annotation() -> None:
    """Event[T] makes a T of the payload, and says which handler it does not fit."""
    handler = Dispatcher([Typed()]).find(_event())[0]
    assert handler.argument(_event()).payload == Instance(1)
    wrong = _event()
    wrong.payload = {"id": "one"}
    with pytest.raises(DecodeError, match=r"Typed\.lifecycle"):
        handler.argument(wrong)


def test_a_list_of_events_is_converted_in_batches() -> None:
    """The annotation of a batch's argument is list[Event[T]]."""

    class Batches:
        @notify.on("*")
        def take(self, events: list[notify.Event[Instance]]) -> None: ...

    class Local(Batches):
        pass

    Batches.take.__annotations__ = {"events": list[notify.Event[Instance]], "return": None}
    handler = Dispatcher([Local()], in_batches=True).find(_event())[0]
    assert handler.argument(_event()).payload == Instance(1)


class _Nothing:
    def handle(self, event: Any) -> None: ...


class _TooFew:
    def info(self, ctxt: Any, payload: Any) -> None: ...


class _NoEvent:
    @notify.on("*")
    def take(self) -> None: ...


class _BadFilter(Classic):
    filter_rule = {"event_type": "x"}  # type: ignore[assignment] # noqa: RUF012


@pytest.mark.parametrize(
    ("endpoints", "told"),
    [
        ([_Nothing()], "_Nothing handles nothing"),
        ([_TooFew()], r"_TooFew\.info is called as info\(ctxt, publisher_id, event_type, payload, metadata\)"),
        ([_NoEvent()], r"_NoEvent\.take is called as take\(event\)"),
        ([_BadFilter()], r"_BadFilter\.filter_rule"),
        ([], "at least one"),
        ("Classic", "list"),
    ],
)
def test_what_cannot_be_called_is_refused(endpoints: Any, told: str) -> None:
    """A listener is not built on an endpoint that would fail on its first notification."""
    with pytest.raises(ConfigError, match=told):
        Dispatcher(endpoints)


@pytest.mark.parametrize("level", ["warnings", "", 3])
def test_unknown_levels_are_refused(level: Any) -> None:
    """The error lists the levels."""
    with pytest.raises(ConfigError, match="audit, debug, info, warn, error, critical, sample"):
        notify.on("*", level=level if isinstance(level, str) else [level])


def test_a_property_is_not_run_by_being_looked_at() -> None:
    """Endpoints may have properties that do work."""

    class WithProperty(Classic):
        @property
        def audit(self) -> Any:
            raise AssertionError("it was run")

    assert [handler.name for handler in Dispatcher([WithProperty()]).handlers] == [
        "WithProperty.info",
        "WithProperty.warning",
    ]
