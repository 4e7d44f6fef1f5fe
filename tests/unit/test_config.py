"""Configuration from a file and the environment: what wins, what is inherited, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import messaging
from messaging.errors import ConfigError

FILE = """
[messaging.rpc]
url = "memory://from-file?heartbeat=1"
max_queue = 5
heartbeat = 9.0
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a configuration file."""

    def to_file(text: str) -> Path:
        path = tmp_path / "service.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def test_the_environment_wins_over_the_file_and_the_url_over_both(write: Callable[[str], Path]) -> None:
    """Keyword, URL, environment, file, default: in this order."""
    config = messaging.load_config(write(FILE), {"MESSAGING_RPC_MAX_QUEUE": "7", "MESSAGING_RPC_HEARTBEAT": "8"})
    with messaging.open_transports(config) as transports:
        settings = transports.rpc._settings
        assert (settings.max_queue, settings.heartbeat, settings.max_body) == (7, 1.0, 128 * 1024 * 1024)
    with messaging.open_transport("memory://?max_queue=3", max_queue=4) as transport:
        assert transport._settings.max_queue == 4


def test_the_environment_alone_will_do() -> None:
    """Without a file the url comes from MESSAGING_RPC_URL, and other variables mean nothing."""
    config = messaging.load_config(environment={"MESSAGING_RPC_URL": "memory://alone", "OTHER": "x"})
    assert config.rpc.url == "memory://alone"


def test_notifications_use_the_rpc_url_when_they_have_none(write: Callable[[str], Path]) -> None:
    """Then both are one transport; with an option of their own they are a second one, at the same place."""
    with messaging.open_transports(messaging.load_config(write(FILE), {})) as transports:
        assert transports.rpc is transports.notify
    config = messaging.load_config(write(FILE + "[messaging.notify]\nmax_queue = 6\n"), {})
    with messaging.open_transports(config) as transports:
        assert transports.rpc is not transports.notify
        assert (transports.rpc._settings.max_queue, transports.notify._settings.max_queue) == (5, 6)
        assert transports.notify.url == transports.rpc.url


def test_notifications_may_go_elsewhere(write: Callable[[str], Path]) -> None:
    """An url of their own takes nothing over from the RPC section."""
    config = messaging.load_config(write(FILE), {"MESSAGING_NOTIFY_URL": "memory://elsewhere"})
    with messaging.open_transports(config) as transports:
        assert str(transports.notify.url) == "memory://elsewhere"
        assert transports.notify._settings.max_queue == 100_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[messaging.rcp]\nurl = 'memory://'\n", "unknown section [messaging.rcp]"),
        ("[messaging.rcp]\nurl = 'memory://'\n", "did you mean 'rpc'?; sections: rpc, notify"),
        ("[messaging.rpc\n", "is not valid TOML"),
        ("messaging = 1\n", "[messaging] in"),
        ("[messaging]\nrpc = 1\n", "[messaging.rpc] in"),
        ("[messaging.rpc]\nurl = 5\n", "[messaging.rpc] url must be a string, not int"),
        ("[messaging.notify]\nurl = 'memory://'\n", "no RPC transport is configured"),
        ("", "MESSAGING_RPC_URL, for example to zmq://"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(write: Callable[[str], Path], text: str, said: str) -> None:
    """The error names the section, the file and the cure."""
    with pytest.raises(ConfigError) as raised:
        messaging.load_config(write(text), {})
    assert said in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A path that cannot be read is no empty configuration."""
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read: No such file"):
        messaging.load_config(tmp_path / "absent.toml", {"MESSAGING_RPC_URL": "memory://"})


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MESSAGING_RPC_MAX_QUEU": "1"}, "unknown option 'max_queu' (environment) - did you mean 'max_queue'?"),
        ({"MESSAGING_RPC_MAX_QUEUE": "0"}, "option 'max_queue' (environment) must be a whole number ≥ 1, not '0'"),
    ],
)
def test_a_bad_option_says_where_it_stands(
    write: Callable[[str], Path], environment: dict[str, str], said: str
) -> None:
    """The transports of a configuration name the place of a wrong option."""
    with pytest.raises(ConfigError) as raised:
        messaging.open_transports(messaging.load_config(write(FILE), environment))
    assert said in str(raised.value)


def test_a_configuration_shows_no_password() -> None:
    """Neither the URL nor the options appear in its repr."""
    config = messaging.load_config(environment={"MESSAGING_RPC_URL": "rabbit://user:s3cret@host/"})
    assert "s3cret" not in repr(config)
