"""Which versions of kombu and py-amqp are known to have what this driver replaces in them.

The client in client.py overrides methods that py-amqp calls its own (see there). Another minor version may have renamed
one of them, and then a connection would hang, or wait inside of the library, instead of saying so. A version that was
not looked at is refused, with the cure; the tests look at each hook of the one that is installed.
"""

from __future__ import annotations

import amqp
import kombu

from messaging.errors import ConfigError

__all__ = ["KNOWN", "check_versions"]

KNOWN = {"kombu": (5, 7), "amqp": (5, 4)}
"""Major and minor version by distribution."""


def check_versions() -> None:
    """Raise ConfigError unless what is installed is what the driver was written for."""
    for name, found in (("kombu", kombu.__version__), ("amqp", amqp.__version__)):
        major, minor = KNOWN[name]
        if found.split(".")[:2] != [str(major), str(minor)]:
            raise ConfigError(
                f"kombu:// works with {name} {major}.{minor}, and {found} is installed, whose inner parts may differ: "
                f"pip install '{name}=={major}.{minor}.*', or use rabbit://"
            )
