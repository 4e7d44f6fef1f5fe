"""Where a process listens, what it advertises, and what of that is refused."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from messaging.drivers.zmq.addresses import advertised_host, bind_somewhere, check_addresses
from messaging.drivers.zmq.options import ZmqSettings
from messaging.errors import ConfigError
from messaging.url import parse_url


def settings(url: str = "zmq://", **options: Any) -> ZmqSettings:
    """Settings of a URL."""
    return ZmqSettings(url=parse_url(url), **options)


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ({}, "127.0.0.1"),
        ({"bind": "::1"}, "[::1]"),
        ({"bind": "0.0.0.0"}, "127.0.0.1"),
        ({"bind": "::"}, "[::1]"),
        ({"bind": "10.0.0.7"}, "10.0.0.7"),
        ({"bind": "0.0.0.0", "advertise": "host.example"}, "host.example"),
        ({"bind": "::", "advertise": "fd00::7"}, "[fd00::7]"),
    ],
)
def test_what_others_connect_to(options: dict[str, Any], host: str) -> None:
    """`advertise`, else the bound address, else loopback where every address is bound and all readers are here."""
    assert advertised_host(settings(**options)) == host


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({}, "bind=127.0.0.1"),
        ({"bind": "0.0.0.0"}, "bind=0.0.0.0"),
        ({"bind": "10.0.0.7", "advertise": "localhost"}, "advertise=localhost"),
        ({"bind": "10.0.0.7", "advertise": "::1"}, "advertise=::1"),
    ],
)
def test_addresses_that_lead_nowhere_are_not_advertised_to_other_machines(options: dict[str, Any], option: str) -> None:
    """Where readers may sit elsewhere, loopback and unspecified addresses are refused by the option that caused
    them.
    """
    with pytest.raises(ConfigError, match="set advertise") as caught:
        check_addresses(settings(insecure=True, **options), spans_machines=True)
    assert option in str(caught.value)
    check_addresses(settings(insecure=True, bind="0.0.0.0", advertise="10.0.0.7"), spans_machines=True)


def test_every_port_of_a_small_range_is_tried_once() -> None:
    """No port is missed and none tried twice, in an order of its own for each process."""
    context = zmq.Context()
    routers = [context.socket(zmq.ROUTER) for _ in range(5)]
    try:
        bound = [bind_somewhere(router, settings(ports="61000-61030"), lambda: 0.5) for router in routers]
        assert len(set(bound)) == 5
        assert all(61000 <= int(endpoint.rpartition(":")[2]) <= 61030 for endpoint in bound)
    finally:
        for router in routers:
            router.close(0)
        context.term()
