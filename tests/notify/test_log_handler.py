"""Log records as notifications."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from messaging import ConfigError, Transport, notify, open_transport
from messaging.drivers.memory import hub
from tests.notify.rig import TARGETS, Everything, Seen, balanced, memory_url


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger that nobody else has."""
    found = logging.getLogger("notify-log-handler-test")
    found.propagate = False
    found.setLevel(logging.DEBUG)
    yield found
    for handler in list(found.handlers):
        found.removeHandler(handler)


def test_records_become_notifications(transport: Transport, logger: logging.Logger) -> None:
    """A record has the predecessor's keys and its own level; what cannot be encoded is told as text."""
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        handler = notify.LogHandler(transport, publisher_id="svc")
        logger.addHandler(handler)
        try:
            raise ValueError("boom")
        except ValueError:
            logger.exception("failed %s", 7, extra={"request": "r1", "thing": object()})
        logger.warning("careful")
        logger.debug("detail")
        handler.flush()
        first, second, third = sorted(endpoint.seen.wait(3), key=lambda event: event.timestamp)
    payload = first.payload
    assert (first.level, second.level, third.level) == ("error", "warn", "debug")
    assert (first.event_type, first.publisher_id) == ("logrecord", "svc")
    assert set(payload) == {
        "name", "levelno", "levelname", "exc_info", "pathname", "lineno",
        "msg", "funcName", "thread", "processName", "process", "extra",
    }  # fmt: skip
    assert payload["msg"] == "failed 7"
    assert "ValueError: boom" in payload["exc_info"]
    assert payload["extra"]["request"] == "r1"
    assert "object" in payload["extra"]["thing"]
    assert (handler.dropped, handler.failed) == (0, 0)


def test_it_never_waits(logger: logging.Logger) -> None:
    """Without a connection records are taken up to the bound, then dropped; neither logging nor close takes time."""
    name = memory_url()
    faults = hub(name.partition("//")[2]).faults
    keep = hub(name.partition("//")[2])
    faults.refuse_connections()
    with open_transport(name) as transport:
        handler = notify.LogHandler(transport, limit=10, flush_timeout=0.1)
        logger.addHandler(handler)
        begun = time.monotonic()
        for number in range(30):
            logger.info("record %d", number)
        assert time.monotonic() - begun < 5.0
        assert handler.dropped == 20
        handler.close()
        assert time.monotonic() - begun < 10.0
    assert keep.faults is faults
    balanced(transport)


def test_records_after_close_are_dropped(transport: Transport, logger: logging.Logger) -> None:
    """When the transport is gone, logging goes on."""
    handler = notify.LogHandler(transport)
    logger.addHandler(handler)
    transport.close()
    logger.info("too late")
    assert handler.dropped == 1


def test_it_does_not_feed_itself(transport: Transport, logger: logging.Logger) -> None:
    """Records of the library, and those that are logged while one is being sent, are ignored."""

    class Chatty:
        def __repr__(self) -> str:
            logger.warning("from inside")
            return "chatty"

    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        handler = notify.LogHandler(transport)
        logger.addHandler(handler)
        ours = logging.getLogger("messaging.reactor")
        ours.addHandler(handler)
        try:
            ours.error("own trouble")
            logger.info("once", extra={"thing": Chatty()})
            handler.flush()
            endpoint.seen.wait()
        finally:
            ours.removeHandler(handler)
    assert [event.payload["msg"] for event in endpoint.seen.all] == ["once"]


def test_failed_records_are_counted(transport: Transport, logger: logging.Logger) -> None:
    """Where nobody listens, the handler counts, and nothing is raised into the code that logs."""
    handler = notify.LogHandler(notify.Notifier(transport, topics=["nobody"]))
    logger.addHandler(handler)
    logger.info("lost")
    handler.flush()
    assert handler.failed == 1


def test_handlers_may_log_where_they_run(transport: Transport, logger: logging.Logger) -> None:
    """A record from the I/O thread itself neither blocks it nor is lost."""
    got = Seen()

    class Relay:
        @notify.on("start")
        def start(self, event: notify.Event[Any]) -> None:
            logger.error("from the owner")
            handler.flush()

        @notify.on("logrecord")
        def record(self, event: notify.Event[Any]) -> None:
            got.add(event.payload["msg"])

    handler = notify.LogHandler(transport)
    logger.addHandler(handler)
    with notify.Listener(transport, TARGETS, [Relay()], executor="inline"):
        notify.Notifier(transport).info(None, "start", 1)
        assert got.wait() == ["from the owner"]


def test_many_threads_may_log(transport: Transport, logger: logging.Logger) -> None:
    """Nothing is lost or counted twice when everybody logs at once."""
    endpoint = Everything()
    with notify.Listener(transport, TARGETS, [endpoint]):
        handler = notify.LogHandler(transport, limit=10_000)
        logger.addHandler(handler)

        def log() -> None:
            for number in range(50):
                logger.info("%d", number)

        threads = [threading.Thread(target=log) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10.0)
        handler.flush()
        assert len(endpoint.seen.wait(400)) == 400
    assert (handler.dropped, handler.failed) == (0, 0)


@pytest.mark.parametrize(("options", "told"), [({"limit": 0}, "limit"), ({"flush_timeout": -1}, "flush_timeout")])
def test_bad_options_are_named(stored: Transport, options: dict[str, Any], told: str) -> None:
    """The error says which option."""
    with pytest.raises(ConfigError, match=told):
        notify.LogHandler(stored, **options)
