"""What holds for every test: no setting of the machine reaches it, and generated examples have no clock.

Fixtures stay with the tests that use them; this file may not know the library.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The library reads these as defaults; a developer's own settings must not decide a test, here or in a child process.
for _name in [name for name in os.environ if name.startswith("MESSAGING_") and not name.startswith("MESSAGING_TEST_")]:
    del os.environ[_name]

# A loaded machine makes an example slow, not wrong; what may take how long is asked by tests of time alone.
settings.register_profile("messaging", deadline=None, print_blob=True)
settings.load_profile("messaging")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have measured of one server beside the outage of another: lines that begin with "p99"."""
    for report in terminalreporter.getreports("passed"):
        for line in report.capstdout.splitlines():
            if line.startswith("p99 "):
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {line}")


# The servers that tests may ask for by name, wherever they stand.
pytest_plugins = ["tests.brokers.fixtures"]
