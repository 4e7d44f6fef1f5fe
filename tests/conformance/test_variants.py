"""An option that changes how a driver gets its answers, held to the promises that it could break.

RabbitMQ carries answers in two ways: through a queue of the client's own, which test_conformance.py proves, and by
direct reply-to, for which every promise of RPC is proven here. What is blocked or stalled is the connection, not the
way of the answers, so the standstills are left to the former. kombu:// shares the connection with rabbit:// and differs
in the client library, so it runs only what looks at answers most closely.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from messaging.drivers.base import Capabilities
from messaging.testing.conformance import SCENARIOS, Scenario, Subject, Verdict, run_scenario, selected
from tests.conformance.subjects.rabbit import rabbit

_RPC = [scenario for scenario in SCENARIOS if "rpc" in scenario.needs]
_GROUPS = {
    "rabbit": ("calls", "routing", "refusals", "deadlines", "lifecycle", "accidents", "deliveries"),
    "kombu": ("calls", "accidents", "deliveries"),
}


@pytest.fixture(scope="module")
def tested(request: pytest.FixtureRequest, rabbit_broker: Any) -> tuple[Subject, Capabilities]:
    """RabbitMQ with answers by direct reply-to, and what it promises."""
    subject = rabbit(rabbit_broker, request.param, replies="direct")
    return subject, subject.capabilities()


@pytest.mark.parametrize(
    ("tested", "scenario", "face"),
    [
        pytest.param(scheme, *pair, id=f"{scheme}-{pair[0].name}-{pair[1]}")
        for scheme, groups in _GROUPS.items()
        for pair in selected(_RPC, only=groups)
    ],
    indirect=["tested"],
)
def test_direct_replies(tested: tuple[Subject, Capabilities], scenario: Scenario, face: str) -> None:
    """A promise of RPC is kept with direct reply-to wherever it is kept with a queue for the answers."""
    subject, capabilities = tested
    with_a_queue = msgspec.structs.replace(capabilities, stable_reply_address=True)
    result = run_scenario(scenario, subject, face, capabilities)
    wanted = Verdict.NOT_PROMISED if scenario.unmet(with_a_queue) else Verdict.PASSED
    assert result.verdict is wanted, f"{result}\n{result.trace}"


@pytest.mark.parametrize("scheme", _GROUPS)
def test_what_direct_replies_do_not_promise(scheme: str, rabbit_broker: Any) -> None:
    """The one difference is declared: that an answer finds its caller after a reconnect."""
    direct = rabbit(rabbit_broker, scheme, replies="direct").capabilities()
    assert direct.stable_reply_address is False
    assert msgspec.structs.replace(direct, stable_reply_address=True) == rabbit(rabbit_broker, scheme).capabilities()


def test_every_group_of_rpc_is_chosen_or_left_to_others() -> None:
    """A new group of scenarios does not go by unnoticed."""
    assert {scenario.group for scenario in _RPC} == {*_GROUPS["rabbit"], "standstills"}
