"""`python -m tests.brokers.jars` fetches all jars that are not there yet, so that no test waits for a download;
`python -m tests.brokers.jars --write NAME`, after a change of a pom, writes the list of hashes anew.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.brokers.jars import download, fetched, hashes
from tests.brokers.process import ServerFailed

_SERVERS = ("kafka", "artemis", "broker-j")


def fetch() -> None:
    """Fetch all; what cannot be had is told here and fails the tests that need it, not the others."""
    for server in _SERVERS:
        try:
            fetched(server)
        except ServerFailed as error:
            print(f"{server}: {error}", file=sys.stderr)


def write(server: str) -> None:
    """Write the list of what the pom leads to now; look at what changed in it."""
    with tempfile.TemporaryDirectory() as folder:
        download(server, Path(folder) / "jars", Path(folder) / "repository")
        lines = [f"{digest}  {file}\n" for file, digest in hashes(Path(folder) / "jars").items()]
    Path(__file__).with_name(f"{server}.sha256").write_text("".join(lines), encoding="ascii")
    print(f"{server}: {len(lines)} jars")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        for name in sys.argv[2:]:
            write(name)
    else:
        fetch()
