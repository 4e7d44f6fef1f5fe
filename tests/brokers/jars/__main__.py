"""Fetch what the poms ask for and write the lists of hashes anew: `python -m tests.brokers.jars kafka`.

The jars of the lists as they stand are fetched by whatever needs them; this is for a change of versions.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.brokers.jars import download, hashes

if __name__ == "__main__":
    for server in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            download(server, Path(folder) / "jars", Path(folder) / "repository")
            lines = [f"{digest}  {file}\n" for file, digest in hashes(Path(folder) / "jars").items()]
        Path(__file__).with_name(f"{server}.sha256").write_text("".join(lines), encoding="ascii")
        print(f"{server}: {len(lines)} jars")
