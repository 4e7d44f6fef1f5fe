"""A Kafka cluster that fails on demand: the one inside librdkafka, for faults that a real Kafka cannot be made to show.

It has real listeners, so any client connects by an ordinary URL, and it knows producers, consumers and groups. It does
not create topics for clients, keeps only a part of its log, checks no sequence numbers of producers, and its latencies
mean nothing: what can be shown on a real broker is shown there.

The functions are experimental in librdkafka and have no Python binding, so they are called in the library that
confluent-kafka brings; their signatures are those of 2.16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import confluent_kafka

__all__ = ["COMMIT", "COORDINATOR", "FETCH", "HEARTBEAT", "JOIN", "METADATA", "PRODUCE", "SYNC", "MockKafka"]

# Numbers of requests in Kafka's protocol.
PRODUCE, FETCH, METADATA, COMMIT, COORDINATOR, JOIN, HEARTBEAT, SYNC = 0, 1, 3, 8, 10, 11, 12, 14

_Pointer, _Text, _Int = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_Short, _Long = ctypes.c_int16, ctypes.c_int32
_REBALANCE_DELAY = 100
"""Milliseconds for which the first member of a group waits for others; 3 s otherwise."""


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parent
    found = sorted(folder.with_name("confluent_kafka.libs").glob("librdkafka-*.so*"))
    assert found, "no librdkafka beside confluent-kafka: install one of its wheels for Linux, which bring it"
    return ctypes.CDLL(str(found[0]))


class MockKafka:
    """A cluster whose brokers have the numbers from 1 on; it lives as long as its process.

    Raises AssertionError where the library refuses. Not thread-safe.
    """

    def __init__(self, brokers: int = 3) -> None:
        self._library = _library()
        refusal = ctypes.create_string_buffer(512)
        conf = self._function("conf_new", _Pointer)()
        client = self._function("new", _Pointer, _Int, _Pointer, _Text, ctypes.c_size_t)(0, conf, refusal, 512)
        assert client, refusal.value.decode()
        self._cluster = self._function("mock_cluster_new", _Pointer, _Pointer, _Int)(client, brokers)
        assert self._cluster, "librdkafka made no mock cluster"
        self._function("mock_group_initial_rebalance_delay_ms", None, _Pointer, _Long)(self._cluster, _REBALANCE_DELAY)
        # Questions of administrators go to the controller, and by default there is none; this one does not move.
        self._function("mock_set_controller_id", None, _Pointer, _Long)(self._cluster, brokers)
        self._function("mock_start_request_tracking", None, _Pointer)(self._cluster)
        hosts: bytes = self._function("mock_cluster_bootstraps", _Text, _Pointer)(self._cluster)
        self.bootstrap = hosts.decode()
        """Its brokers, as host:port, divided by commas."""

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._library, f"rd_kafka_{name}")
        function.restype = result
        function.argtypes = arguments
        return function

    def _do(self, name: str, *arguments: tuple[Any, Any]) -> None:
        kinds, values = zip(*arguments, strict=True)
        code = self._function(f"mock_{name}", _Int, _Pointer, *kinds)(self._cluster, *values)
        assert code == 0, f"{name}{values}: error {code}"

    def create(self, topic: str, partitions: int = 1, replicas: int = 3) -> None:
        """Make a topic."""
        self._do("topic_create", (_Text, topic.encode()), (_Int, partitions), (_Int, replicas))

    def spoil(self, topic: str, error: int) -> None:
        """Answer questions for a topic with this error; 0: as it is."""
        self._function("mock_topic_set_error", None, _Pointer, _Text, _Int)(self._cluster, topic.encode(), error)

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Make a broker the leader of a partition."""
        self._do("partition_set_leader", (_Text, topic.encode()), (_Long, partition), (_Long, broker))

    def coordinate(self, group: str, broker: int) -> None:
        """Make a broker the coordinator of a group."""
        self._do("coordinator_set", (_Text, b"group"), (_Text, group.encode()), (_Long, broker))

    def down(self, broker: int = -1) -> None:
        """Break the connections of a broker, or of all, and take no new ones; leaders stay who they are."""
        self._do("broker_set_down", (_Long, broker))

    def up(self, broker: int = -1) -> None:
        """Take connections again."""
        self._do("broker_set_up", (_Long, broker))

    def delay(self, milliseconds: int, broker: int = -1) -> None:
        """Answer every request after this time."""
        self._do("broker_set_rtt", (_Long, broker), (_Int, milliseconds))

    def fail(self, request: int, errors: Sequence[int]) -> None:
        """Answer the next requests of a kind with these errors, in order; nothing of them is done. -195 breaks the
        connection instead.
        """
        codes = (_Int * len(errors))(*errors)
        push = self._function(
            "mock_push_request_errors_array", None, _Pointer, _Short, ctypes.c_size_t, ctypes.POINTER(_Int)
        )
        push(self._cluster, request, len(errors), codes)

    def heal(self, request: int) -> None:
        """Forget the errors that are left for a kind of request."""
        self._function("mock_clear_request_errors", None, _Pointer, _Short)(self._cluster, request)

    def received(self, request: int) -> int:
        """How many requests of a kind have come so far."""
        number = ctypes.c_size_t()
        counted = ctypes.POINTER(ctypes.c_size_t)
        found = self._function("mock_get_requests", ctypes.POINTER(_Pointer), _Pointer, counted)(self._cluster, number)
        kind = self._function("mock_request_api_key", _Short, _Pointer)
        kinds = [kind(found[each]) for each in range(number.value)]
        self._function("mock_request_destroy_array", None, ctypes.POINTER(_Pointer), ctypes.c_size_t)(found, number)
        return kinds.count(request)
