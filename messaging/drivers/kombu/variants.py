"""Which of kombu's transports may be used, and why others may not: a table."""

from __future__ import annotations

from collections.abc import Iterable

import kombu
from kombu.transport import TRANSPORT_ALIASES, get_transport_cls

from messaging.errors import ConfigError, DriverNotInstalled, InvalidUrl, Unsupported
from messaging.options import nearest
from messaging.url import Url

__all__ = ["TESTED", "check_url"]

TESTED = ("redis", "rediss")
_KNOWN = "5.7"
"""The version of kombu whose inner parts are known: which hooks its redis transport has, and how it names things."""
_NATIVE = ("amqp", "amqps", "pyamqp", "librabbitmq")
_OTHERS = ("confluentkafka", "kafka", "qpid", "sentinel", "slmq")
"""kafka and qpid are no queues of kombu's own; sentinel needs options that a URL of ours has no place for."""
_LOSES = {
    "filesystem": "it reads files without a lock and removes them before it has parsed them: of 4,000 messages to two "
    "consumers 405 were lost",
    "memory": "it lives in one process and drops what is unsettled when it is closed; memory:// is made for that",
}


def check_url(url: Url) -> None:
    """Raise ConfigError (InvalidUrl, Unsupported) unless this driver serves the variant of a URL, and its parts fit."""
    variant = url.variant
    if kombu.__version__.split(".")[:2] != _KNOWN.split("."):
        raise ConfigError(
            f"kombu+{variant}:// works with kombu {_KNOWN}, and {kombu.__version__} is installed, whose inner parts "
            f"may differ: pip install 'kombu=={_KNOWN}.*'"
        )
    if variant in _LOSES:
        raise Unsupported(f"kombu+{variant}:// loses messages and is refused: {_LOSES[variant]}")
    if variant in _NATIVE:
        raise InvalidUrl(f"RabbitMQ by kombu is kombu://, without +{variant}; for TLS add ?tls=yes")
    if variant not in TESTED:
        untested = sorted({alias.lower() for alias in TRANSPORT_ALIASES} - {*TESTED, *_NATIVE, *_LOSES, *_OTHERS})
        if variant not in untested:
            raise InvalidUrl(
                f"kombu has no transport {variant!r} that could be used{nearest(variant, [*TESTED, *untested])}; there "
                f"are {_listed(TESTED)}, and untested {_listed(untested)}"
            )
        try:
            get_transport_cls(variant)
        except ImportError as error:
            raise DriverNotInstalled(f"kombu+{variant}:// needs what kombu's transport needs: {error}") from error
        return
    if not url.hosts:
        raise InvalidUrl(f"kombu+{variant}:// needs the host of its server: kombu+{variant}://:password@host:6379/0")
    if url.vhost and not url.vhost.isdigit():
        raise InvalidUrl(f"the path of kombu+{variant}:// is the number of a database, not {url.vhost!r}")


def _listed(variants: Iterable[str]) -> str:
    return ", ".join(f"kombu+{variant}://" for variant in variants)
