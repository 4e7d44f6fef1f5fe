"""Transport URLs: what they mean, that they come back as they were, and that nothing shows a password."""

from __future__ import annotations

import string
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messaging.errors import InvalidUrl
from messaging.url import Host, Url, parse_url

SECRET = "S3CRETs3cret"

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
WORD = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
PORTS = st.none() | st.integers(1, 65535)
OPTIONS = st.dictionaries(NAMES, TEXT, max_size=4).map(lambda options: tuple(options.items()))


@st.composite
def hosts(draw: st.DrawFn, logins: bool) -> Host:
    """Any host; with `logins` it has a user, and perhaps a password."""
    username = draw(TEXT) if logins else None
    password = draw(st.none() | TEXT) if logins else None
    return Host(draw(NAMES), draw(PORTS), username, password)


@st.composite
def urls(draw: st.DrawFn) -> Url:
    """Any URL that can be written down."""
    return Url(
        scheme=draw(st.sampled_from(string.ascii_lowercase)) + draw(WORD),
        variant=draw(st.just("") | WORD),
        hosts=tuple(draw(st.lists(hosts(draw(st.booleans())), max_size=3))),
        vhost=draw(st.none() | TEXT),
        options=draw(OPTIONS),
    )


@given(urls())
def test_a_url_comes_back_as_it_was(url: Url) -> None:
    """What is written with its passwords and parsed again is the same URL, whatever characters are in it."""
    assert parse_url(url.unmasked()) == url


@given(urls(), st.booleans())
def test_passwords_are_masked(url: Url, as_option: bool) -> None:
    """No password shows in str, repr or a formatted URL, be it in a login, an option of that kind, or a URL in an
    option.
    """
    if as_option:
        value = f"redis://user:{SECRET}@host/0"
        url = Url(url.scheme, url.variant, url.hosts, url.vhost, (("matchmaker", value), ("password", SECRET)))
    else:
        url = Url(url.scheme, url.variant, (Host("h", None, "u", SECRET), *url.hosts), url.vhost, url.options)
    for shown in (str(url), repr(url), f"{url}", repr(url.hosts), f"{url!r}"):
        assert SECRET not in shown
    assert SECRET in url.unmasked()


SPECIAL = st.sampled_from(
    ["/", "?", "#", ",", ":", "%", "[", "]", "&", "=", " ", "%ff", "%2", "?x=", "/x=&", "\n", "#@"]
)
PLACES = st.sampled_from(["host", "host:5672", "h1,h2", "h1:1,u2:p2@h2", "[::1]:1", "host/vhost", "host?a=b", "", ":x"])


@given(SPECIAL, SPECIAL, PLACES, st.sampled_from(["rabbit://", "rabbit:", "", "://", "1rabbit://"]))
def test_nothing_leaks_a_password_that_was_not_encoded(before: str, after: str, place: str, scheme: str) -> None:
    """With a special character in a password the URL is refused, or understood; either way the password is not
    shown.
    """
    text = f"{scheme}user:{before}{SECRET}{after}@{place}"
    try:
        shown = str(parse_url(text))
    except InvalidUrl as error:
        shown = "".join(traceback.format_exception(error))
        # The traceback shows the source line of this test, which does not hold the secret either.
    assert SECRET not in shown


@pytest.mark.parametrize("text", ["host?password=" + SECRET, "x://h?" + SECRET, "x://h?password=%ff" + SECRET])
def test_nothing_leaks_an_option(text: str) -> None:
    """Where an option cannot be read its value is not shown."""
    with pytest.raises(InvalidUrl) as caught:
        parse_url(text)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_an_error(text: str) -> None:
    """Whatever is parsed, the outcome is a Url that can be written down again, or InvalidUrl."""
    for tried in (text, "zmq://" + text):
        try:
            url = parse_url(tried)
        except InvalidUrl:
            continue
        assert parse_url(url.unmasked()) == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("memory://", Url("memory")),
        ("memory://name", Url("memory", hosts=(Host("name"),))),
        ("zmq+local:///run/my-app", Url("zmq", "local", vhost="run/my-app")),
        ("ZMQ+Static://h1:5555,h2:5555/", Url("zmq", "static", (Host("h1", 5555), Host("h2", 5555)), "")),
        ("kombu+redis://:pw@h/0", Url("kombu", "redis", (Host("h", None, "", "pw"),), "0")),
        ("rabbit://u:p%40ss@[::1]:5672/%2F", Url("rabbit", "", (Host("::1", 5672, "u", "p@ss"),), "/")),
        ("rabbit://u:p@ss@h", Url("rabbit", "", (Host("h", None, "u", "p@ss"),))),
        ("zmq+tooz-zookeeper://h:2181", Url("zmq", "tooz-zookeeper", (Host("h", 2181),))),
        ("memory://?a=b+c&d=", Url("memory", options=(("a", "b c"), ("d", "")))),
    ],
)
def test_what_a_url_means(text: str, url: Url) -> None:
    """The parts of a URL are where the grammar says."""
    assert parse_url(text) == url


@pytest.mark.parametrize(
    ("host", "address"), [(Host("h"), "h"), (Host("h", 1), "h:1"), (Host("::1"), "[::1]"), (Host("::1", 1), "[::1]:1")]
)
def test_a_host_has_an_address(host: Host, address: str) -> None:
    """The address is what a socket library is given."""
    assert host.address == address


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (5, "a string, not int"),
        ("", "no scheme; write for example zmq://"),
        ("rabbit", "no scheme in 'rabbit'"),
        ("rabbit:/host", "no scheme in 'rabbit'"),
        ("zmq+://", "no scheme"),
        ("zmq://h:x", "1 to 65535, not 'h:x'"),
        ("zmq://h:0", "1 to 65535, not 'h:0'"),
        ("zmq://h:65536", "1 to 65535"),
        ("zmq://u:p@h:x", "in a login as %2F"),
        ("zmq://::1", r"in brackets, \[address\]:port, not '::1'"),
        ("zmq://[::1", "not '\\[::1'"),
        ("zmq://[::1]5", "written"),
        ("zmq://:5", "no name, not ':5'"),
        ("zmq://u:p@", "no name"),
        ("zmq://h,u:p@h2", "the first host has no login"),
        ("zmq://h/#x", "%23"),
        ("zmq://h/a@b", "'@' behind the hosts"),
        ("zmq://h?a=b@c", "'@' behind the hosts"),
        ("zmq://h /", "blanks"),
        ("zmq://h\n", "line ends"),
        ("zmq://\udcff", "control characters"),
        ("zmq://h/%ff", "the path are not UTF-8"),
        ("zmq://%ff", "a host name are not UTF-8"),
        ("zmq://h?a", "option=value"),
        ("zmq://h?a=%ff", "UTF-8"),
        ("zmq://h?a=1&a=2", "'a' stands twice"),
    ],
)
def test_what_is_wrong_is_named(text: Any, said: str) -> None:
    """Each mistake is said with what is allowed."""
    with pytest.raises(InvalidUrl, match=said):
        parse_url(text)
