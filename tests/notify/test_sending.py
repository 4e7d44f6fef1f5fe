"""What a notifier promises to whoever sends."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from contextlib import contextmanager
from typing import Any

import pytest

from messaging import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    Delivered,
    EncodeError,
    NoRoute,
    PipelineFailed,
    StateError,
    Target,
    TooLarge,
    Transport,
    notify,
    open_transport,
)
from messaging.drivers.memory import hub
from messaging.errors import ConnectFailed
from messaging.testing.conformance.checks import punctual
from tests.notify.rig import LONG, TARGETS, TOPIC, Everything, count, memory_url, until


class Classic:
    """Every level by the predecessor's methods."""

    def __init__(self) -> None:
        self.got = Everything().seen

    def _take(self, level: str, *arguments: Any) -> None:
        self.got.add((level, *arguments))

    def audit(self, *arguments: Any) -> None:
        self._take("audit", *arguments)

    def debug(self, *arguments: Any) -> None:
        self._take("debug", *arguments)

    def info(self, *arguments: Any) -> None:
        self._take("info", *arguments)

    def warn(self, *arguments: Any) -> None:
        self._take("warn", *arguments)

    def error(self, *arguments: Any) -> None:
        self._take("error", *arguments)

    def critical(self, *arguments: Any) -> None:
        self._take("critical", *arguments)

    def sample(self, *arguments: Any) -> None:
        self._take("sample", *arguments)


def test_each_level_arrives_as_itself(transport: Transport) -> None:
    """Every verb reaches the method of its level, with all that the predecessor's endpoints get."""
    endpoint = Classic()
    with notify.Listener(transport, TARGETS, [endpoint]):
        notifier = notify.Notifier(transport, "me")
        verbs = ["audit", "debug", "info", "warn", "warning", "error", "critical", "sample"]
        for verb in verbs:
            getattr(notifier, verb)({"user": "eve"}, f"did.{verb}", {"n": 1})
        got = endpoint.got.wait(len(verbs))
    assert sorted((level, event_type) for level, _, _, event_type, _, _ in got) == sorted(
        ("warn" if verb == "warning" else verb, f"did.{verb}") for verb in verbs
    )
    _, ctxt, publisher, _, payload, metadata = got[0]
    assert (ctxt, publisher, payload) == ({"user": "eve"}, "me", {"n": 1})
    assert set(metadata) == {"message_id", "timestamp"}


def test_a_level_may_be_given_by_name(transport: Transport) -> None:
    """notify() takes any level, and refuses what is none."""
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        notifier = notify.Notifier(transport)
        notifier.notify("ERROR", None, "x", 1)
        assert endpoint.seen.wait()[0].level == "error"
        with pytest.raises(ConfigError, match="audit, debug"):
            notifier.notify("loud", None, "x", 1)


def test_nobody_there_is_told(transport: Transport) -> None:
    """Where nobody has ever listened, a notification raises NoRoute with delivered NO, or is counted by option."""
    notifier = notify.Notifier(transport)
    with pytest.raises(NoRoute) as caught:
        notifier.info(None, "x", 1)
    assert caught.value.delivered is Delivered.NO
    notify.Notifier(transport, unrouted="count").info(None, "x", 1)
    assert count(transport, "notify.unroutable") == 2


def test_all_topics_are_tried(transport: Transport) -> None:
    """With several topics each is sent to; the error names those that failed, and is MAYBE when another has it."""
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        notifier = notify.Notifier(transport, topics=["nobody", TOPIC, "nothing"])
        with pytest.raises(PipelineFailed, match=r"topic nobody.*topic nothing") as caught:
            notifier.info(None, "x", 1)
        assert [type(error) for error in caught.value.exceptions] == [NoRoute, NoRoute]
        assert caught.value.delivered is Delivered.MAYBE
        assert endpoint.seen.wait()[0].event_type == "x"


def test_one_notification_has_one_id_on_all_topics(transport: Transport) -> None:
    """Whoever listens to two topics can see that it is the same."""
    endpoint = Everything()
    with notify.Listener(transport, [Target(topic="a"), Target(topic="b", exchange="messaging")], [endpoint]):
        notify.Notifier(transport, topics=["a", "b"]).info(None, "x", 1)
        first, second = endpoint.seen.wait(2)
    assert first.message_id == second.message_id != ""


def test_an_exchange_is_part_of_the_address(transport: Transport) -> None:
    """Topics of another exchange are others."""
    endpoint = Everything()
    with notify.Listener(transport, [Target(exchange="nova", topic="n")], [endpoint]):
        notifier = notify.Notifier(transport, topics=["n"])
        with pytest.raises(NoRoute):
            notifier.info(None, "x", 1)
        notifier.prepare(exchange="nova").info(None, "y", 1)
        assert [event.event_type for event in endpoint.seen.wait()] == ["y"]


def test_what_cannot_be_encoded_is_named(transport: Transport) -> None:
    """The error names payload or context, before anything is sent."""
    notifier = notify.Notifier(transport)
    with pytest.raises(EncodeError, match="'payload' of type object"):
        notifier.info(None, "x", object())
    with pytest.raises(EncodeError, match="'ctxt' of type dict"):
        notifier.info({"a": object()}, "x", 1)
    with pytest.raises(ConfigError, match="must be a mapping"):
        notifier.info(3, "x", 1)  # type: ignore[arg-type]
    assert count(transport, "notify.sent") == 0


def test_too_large_is_told_before_sending(tmp_path: Any) -> None:
    """The error tells both sizes."""
    with open_transport(memory_url(), max_body=1000) as transport:
        with pytest.raises(TooLarge, match="1000"):
            notify.Notifier(transport).info(None, "x", "x" * 2000)
        assert count(transport, "notify.sent") == 0


def test_on_error_decides_who_hears(transport: Transport, caplog: pytest.LogCaptureFixture) -> None:
    """A failed send is raised, logged, or given to a function; mistakes of the caller always raise."""
    heard: list[Any] = []
    notify.Notifier(transport, on_error=lambda event, error: heard.append((event, error))).info(None, "x", 1)
    assert heard[0][0].event_type == "x"
    assert isinstance(heard[0][1], NoRoute)
    with caplog.at_level(logging.ERROR, logger="messaging.notify"):
        logged = notify.Notifier(transport, on_error="log")
        logged.info(None, "y", 1)
        logged.info(None, "z", object())
    assert ["NoRoute" in record.getMessage() for record in caplog.records] == [True, False]
    with pytest.raises(ConfigError):
        logged.info(3, "x", 1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="on_error"):
        notify.Notifier(transport, on_error="ignore")  # type: ignore[arg-type]


def test_prepare_makes_a_changed_copy(transport: Transport) -> None:
    """Options of the copy do not reach the original."""
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        original = notify.Notifier(transport, "one")
        original.prepare(publisher_id="two", headers={"trace": "t1"}).info(None, "x", 1, headers={"more": 2})
        original.info(None, "y", 1)
        second, first = sorted(endpoint.seen.wait(2), key=lambda event: event.event_type, reverse=True)
    assert (first.publisher_id, second.publisher_id) == ("two", "one")
    assert first.headers["trace"] == "t1"
    assert first.headers["more"] == 2
    assert "trace" not in second.headers


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"topics": "notifications"}, "list of at least one topic"),
        ({"topics": []}, "list of at least one topic"),
        ({"retry": -1}, "retry"),
        ({"timeout": float("inf")}, "finite"),
        ({"headers": {"level": "x"}}, "'level' is this library's own"),
        ({"publisher_id": 3}, "publisher_id"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], told: str, stored: Transport) -> None:
    """The error says which option, and what is allowed."""
    with pytest.raises(ConfigError, match=told):
        notify.Notifier(stored).prepare(**options)


def test_submit_gives_a_future(transport: Transport) -> None:
    """The future has None when it is taken, or the error; it can be waited for by others."""
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        notifier = notify.Notifier(transport)
        futures = [notifier.submit("info", None, "x", number) for number in range(50)]
        assert [future.result(LONG) for future in concurrent.futures.as_completed(futures, LONG)] == [None] * 50
        failed = notifier.prepare(topics=["nobody"]).submit("info", None, "x", 1)
        assert isinstance(failed.exception(LONG), NoRoute)
        endpoint.seen.wait(50)


def test_a_future_can_be_cancelled() -> None:
    """What waits for a connection is given up, and never sent."""
    name = memory_url()
    held = hub(name.partition("//")[2])
    held.faults.refuse_connections()
    with open_transport(name) as transport:
        future = notify.Notifier(transport).submit("info", None, "x", 1)
        assert future.cancel()
        assert future.cancelled()
        until(lambda: count(transport, "notify.cancelled") == 1)


def test_a_deadline_ends_everything() -> None:
    """Without a connection a notification ends at its deadline, not later, and is known not to be delivered."""
    name = memory_url()
    held = hub(name.partition("//")[2])
    held.faults.refuse_connections(ConnectFailed("out of order"))
    with open_transport(name) as transport:
        begun = time.monotonic()
        with punctual(0.2, "a notification"), pytest.raises(DeadlineExceeded, match="out of order") as caught:
            notify.Notifier(transport, timeout=0.2).info(None, "x", 1)
        assert time.monotonic() - begun >= 0.2
    assert (caught.value.delivered, caught.value.phase) == (Delivered.NO, "connect")


def test_a_lost_confirmation_is_sent_again() -> None:
    """Where there is storage, what may be stored is sent again with the same id: at least once."""
    name = memory_url()
    faults = hub(name.partition("//")[2]).faults
    held = hub(name.partition("//")[2])
    with open_transport(name) as transport:
        endpoint = Everything()
        with notify.Listener(transport, TARGETS, [endpoint]), open_transport(name) as other:
            faults.withhold_confirms()
            future = notify.Notifier(other).submit("info", None, "x", 1)
            endpoint.seen.wait(1)
            faults.disconnect()
            faults.release_confirms()
            assert future.result(LONG) is None
            ids = {event.message_id for event in endpoint.seen.wait(2)}
    assert len(ids) == 1
    assert held.faults is faults


def test_a_doubt_stays_a_doubt() -> None:
    """When an earlier attempt may have been stored, the end is MAYBE, whatever the last attempt says."""
    name = memory_url()
    faults = hub(name.partition("//")[2]).faults
    keep = hub(name.partition("//")[2])
    with open_transport(name) as transport, notify.Listener(transport, TARGETS, [Everything()]):
        with open_transport(name) as other:
            faults.withhold_confirms()
            future = notify.Notifier(other, timeout=0.5).submit("info", None, "x", 1)
            until(lambda: any(link.unconfirmed for link in keep.links.values()))
            faults.refuse_connections()
            faults.disconnect()
            error = future.exception(LONG)
        faults.clear()
    assert isinstance(error, DeadlineExceeded)
    assert error.delivered is Delivered.MAYBE


def test_retry_bounds_the_repeats() -> None:
    """retry=0 reports the first doubt instead of sending again."""
    name = memory_url()
    faults = hub(name.partition("//")[2]).faults
    keep = hub(name.partition("//")[2])
    with open_transport(name) as transport, notify.Listener(transport, TARGETS, [Everything()]):
        with open_transport(name) as other:
            faults.withhold_confirms()
            future = notify.Notifier(other, retry=0).submit("info", None, "x", 1)
            until(lambda: any(link.unconfirmed for link in keep.links.values()))
            faults.disconnect()
            error = future.exception(LONG)
            faults.clear()
    assert getattr(error, "delivered", None) is Delivered.MAYBE


def test_after_close_it_raises(transport: Transport) -> None:
    """A notifier of a closed transport says so, by every way of sending."""
    notifier = notify.Notifier(transport)
    transport.close()
    with pytest.raises(Closed):
        notifier.info(None, "x", 1)
    with pytest.raises(Closed):
        notifier.submit("info", None, "x", 1)
    with pytest.raises(Closed):
        with notifier.pipeline() as pipeline:
            pipeline.info(None, "x", 1)


def test_an_inline_handler_may_not_wait(transport: Transport) -> None:
    """A blocking notification from the I/O thread is an error instead of a deadlock, and nothing is sent."""
    caught = Everything().seen

    class Relay:
        @notify.on("start")
        def relay(self, event: notify.Event[Any]) -> None:
            try:
                notify.Notifier(transport).info(None, "next", 1)
            except StateError as error:
                caught.add(error)
            notify.Notifier(transport).submit("info", None, "submitted", 1)

        @notify.on("submitted")
        def submitted(self, event: notify.Event[Any]) -> None:
            caught.add(event)

    with notify.Listener(transport, TARGETS, [Relay()], executor="inline"):
        notify.Notifier(transport).info(None, "start", 1)
        told, event = caught.wait(2)
    assert "would wait for itself" in str(told)
    assert event.event_type == "submitted"


def test_other_sinks_get_it_too(transport: Transport) -> None:
    """Sinks beside the transport get every event; is_enabled says whether anything is done at all."""
    recording = notify.Recording()
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        notifier = notify.Notifier(transport, "me", sinks=["messaging", recording, "log"])
        notifier.info({"a": 1}, "x", {"n": 1})
        event = endpoint.seen.wait()[0]
    assert [(kept.event_type, kept.message_id, kept.context) for kept in recording.events] == [
        ("x", event.message_id, {"a": 1})
    ]
    assert notifier.is_enabled()
    assert not notify.Notifier(transport, sinks=["noop"]).is_enabled()
    assert not notify.Notifier(transport, sinks=[]).is_enabled()
    sent = count(transport, "notify.sent")
    notify.Notifier(transport, sinks=["noop"]).info(None, "x", 1)
    assert count(transport, "notify.sent") == sent


def test_a_failing_sink_is_a_failed_send(transport: Transport) -> None:
    """What a sink raises is raised, and the others have their event."""

    class Broken:
        def emit(self, event: notify.Event[Any]) -> None:
            raise OSError("disk full")

    recording = notify.Recording()
    with pytest.raises(OSError, match="disk full"):
        notify.Notifier(transport, sinks=[Broken()]).info(None, "x", 1)
    with pytest.raises(PipelineFailed, match=r"Broken.*disk full.*topic notifications"):
        notify.Notifier(transport, sinks=[Broken(), recording, "messaging"]).info(None, "x", 1)
    assert len(recording.events) == 1


def test_rules_may_route_to_the_transport(transport: Transport) -> None:
    """A routing sink decides per event whether the transport gets it."""
    endpoint = Everything()
    recording = notify.Recording()
    routing = notify.Routing(
        {"a": {"messaging": {"accepted_events": ["far.*"]}, "near": {"accepted_events": ["near.*"]}}},
        sinks={"near": recording},
    )
    with notify.Listener(transport, TARGETS, [endpoint]):
        notifier = notify.Notifier(transport, sinks=[routing])
        notifier.info(None, "near.x", 1)
        notifier.info(None, "far.x", 1)
        assert [event.event_type for event in endpoint.seen.wait()] == ["far.x"]
    assert [event.event_type for event in recording.events] == ["near.x"]
    assert count(transport, "notify.sent") == 1


def test_around_wraps_each_notification(transport: Transport) -> None:
    """Context managers see the event before it leaves, may add to its headers and context, and see the error."""
    endpoint = Everything()
    steps: list[str] = []

    @contextmanager
    def traced(event: notify.Event[Any]) -> Any:
        steps.append("before")
        event.headers["traceparent"] = "00-1"
        event.context["span"] = 7
        try:
            yield
        except NoRoute:
            steps.append("error")
            raise
        steps.append("after")

    with notify.Listener(transport, TARGETS, [endpoint]):
        notifier = notify.Notifier(transport, around=[traced])
        notifier.info({"a": 1}, "x", 1)
        event = endpoint.seen.wait()[0]
        with pytest.raises(NoRoute):
            notifier.prepare(topics=["nobody"]).info(None, "x", 1)
    assert event.headers["traceparent"] == "00-1"
    assert event.context == {"a": 1, "span": 7}
    assert steps == ["before", "after", "before", "error"]


def test_a_serializer_makes_plain_values(transport: Transport) -> None:
    """Contexts and payloads go through the serializers of both sides."""

    class Hexed:
        def serialize_entity(self, ctxt: Any, entity: Any) -> Any:
            return hex(entity)

        def deserialize_entity(self, ctxt: Any, entity: Any) -> Any:
            return int(entity, 16)

        def serialize_context(self, ctxt: Any) -> dict[str, Any]:
            return {"was": type(ctxt).__name__}

        def deserialize_context(self, ctxt: dict[str, Any]) -> Any:
            return ctxt["was"]

    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint], serializer=Hexed()):
        notify.Notifier(transport, serializer=Hexed()).info((1, 2), "x", 255)  # type: ignore[arg-type]
        event = endpoint.seen.wait()[0]
    assert (event.context, event.payload) == ("tuple", 255)


def test_counts_balance_under_threads(transport: Transport) -> None:
    """Many threads that send at once lose no notification and no count."""
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        notifier = notify.Notifier(transport)

        def send(name: int) -> None:
            for number in range(100):
                notifier.info(None, "x", [name, number])

        threads = [threading.Thread(target=send, args=(name,)) for name in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30.0)
        got = {tuple(event.payload) for event in endpoint.seen.wait(1600)}
    assert len(got) == 1600
    assert count(transport, "notify.taken") == 1600


def test_a_notification_does_not_inherit_a_deadline(transport: Transport) -> None:
    """Notifications start afresh, whatever is left to the request that sends them."""
    import messaging

    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        with messaging.deadline(0.001):
            until(lambda: True)
            time.monotonic()
            notify.Notifier(transport).info(None, "x", 1)
        endpoint.seen.wait()
