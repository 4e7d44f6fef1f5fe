"""The option tables of the drivers that come with the library, as their users meet them."""

from __future__ import annotations

from typing import Any

import pytest
from zmq import curve_keypair

import messaging
from messaging.drivers import load_driver
from messaging.options import describe_options

_VALUES = {
    "advertise": "192.0.2.7",
    "ports": "5000-5009",
    "curve_key": curve_keypair()[1].decode(),
    "curve_server_key": curve_keypair()[0].decode(),
    "curve_allowed": curve_keypair()[0].decode(),
}
"""Of options whose default is None, which would not show whether they can be set."""


def _options() -> list[tuple[str, str, Any]]:
    return [
        (scheme, option.name, _VALUES.get(option.name, option.default))
        for scheme in ("memory", "zmq")
        for option in describe_options(load_driver(scheme).options)
    ]


@pytest.mark.parametrize(
    ("scheme", "name", "value"), [pytest.param(*option, id="-".join(option[:2])) for option in _options()]
)
def test_every_option_can_be_given(scheme: str, name: str, value: Any) -> None:
    """Each option that is listed is accepted as a keyword, with a value of its kind."""
    needed = {"curve_key": _VALUES["curve_key"]} if name.startswith("curve_") else {}
    messaging.open_transport(f"{scheme}://", **{**needed, name: value}).close()


@pytest.mark.parametrize("ports", ["0", "70000", "9-5", "http", "5000-"])
def test_ports_that_are_none_are_refused(ports: str) -> None:
    """A port that does not exist, a range that ends before it begins and a word are named in the error."""
    with pytest.raises(messaging.ConfigError, match="ports"):
        messaging.open_transport("zmq://", ports=ports)


def test_a_key_that_lost_a_character_is_not_shown() -> None:
    """A value that is no key is taken for a file's name, and not repeated: it may be most of a secret."""
    key = _VALUES["curve_key"][1:]
    with pytest.raises(messaging.ConfigError, match="curve_key must be") as raised:
        messaging.open_transport("zmq://", curve_key=key)
    assert key not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("zmq://host:5555", "zmq+static://host:port,... for fixed peers"),
        ("zmq+statik://host:5555", "did you mean 'static'?; variants: local, static"),
        ("zmq+static://", "zmq+static:// needs its peers"),
        ("zmq+static://host", "zmq+static:// needs a port for each peer: host:5555"),
        ("zmq://?bind=0.0.0.0", "set curve_key (and curve_allowed), or insecure=yes"),
        ("zmq://?bind=0.0.0.0&insecure=yes&advertise=0.0.0.0", "advertise=0.0.0.0 is no address"),
        ("zmq://?curve_allowed=" + "x" * 40, "curve_allowed needs curve_key"),
    ],
)
def test_a_url_of_zmq_that_cannot_be_meant_is_refused_with_its_cure(url: str, said: str) -> None:
    """What would lead nowhere, or let everybody in, is refused when the transport is opened."""
    with pytest.raises(messaging.ConfigError) as raised:
        messaging.open_transport(url)
    assert said in str(raised.value)
