"""Writes the pages of docs/ that say what the code says: what transports promise, and their options.

`python docs/generate.py` writes them, `--check` only compares and exits with 1 when one is out of date. The promises
are those that the drivers declare; tests/conformance proves each of them over both faces.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from messaging.drivers import known_schemes, load_driver
from messaging.drivers.base import Capabilities
from messaging.errors import InvalidUrl
from messaging.options import describe_options
from messaging.testing.conformance import SCENARIOS, matrix
from messaging.transport import BaseTransport

DOCS = Path(__file__).resolve().parent
_NOTE = "<!-- Written by docs/generate.py; run `make docs` after a change. -->"


def built_in() -> list[str]:
    """The schemes of the drivers in this repository."""
    return [scheme for scheme in known_schemes() if type(load_driver(scheme)).__module__.startswith("messaging.")]


def capabilities_page() -> str:
    """What each transport declares, and what follows from it."""
    declared = {name: found for scheme in built_in() for name, found in _columns(scheme).items()}
    columns = {name: matrix.declared(capabilities) for name, capabilities in declared.items()}
    return f"""{_NOTE}

# What each transport promises

A driver declares what it can do, and the conformance suite holds it to that: every "yes" below is a scenario that the
driver passes, over the blocking and the asyncio face; every "no" names the capability that it does not have. Run the
suite over a transport of your own with `python -m messaging.testing.conformance URL`.

## Capabilities

The values are explained where drivers declare them, in `messaging/drivers/base.py`.

{matrix.capability_table(declared)}

## Promises

{matrix.promise_table(SCENARIOS, columns)}
"""


def _columns(scheme: str) -> dict[str, Capabilities]:
    """The columns of a driver: one, or where it speaks to several kinds of peers one for each."""
    peers: dict[str, str] | None = getattr(load_driver(scheme), "peers", None)
    if peers is None:
        return {f"{scheme}://": _declared(scheme)}
    return {name: BaseTransport(url).capabilities for name, url in peers.items()}


def _declared(scheme: str) -> Capabilities:
    try:
        return BaseTransport(f"{scheme}://").capabilities
    except InvalidUrl:
        # It has to be told where its broker is, which makes no difference to what it declares.
        return BaseTransport(f"{scheme}://localhost/").capabilities


def options_page() -> str:
    """The options of every driver's URL."""
    sections = []
    for scheme in built_in():
        lines = [f"## {scheme}://", "", "| option | values | default | |", "|---|---|---|---|"]
        for option in describe_options(load_driver(scheme).options):
            cells = (f"`{option.name}`", option.allowed, _default(option.default), option.description)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        sections.append("\n".join(lines))
    tables = "\n\n".join(sections)
    return f"""{_NOTE}

# Options of transports

Write them into the URL (`zmq://?heartbeat=5`), into the configuration file, or pass them as keywords of
`open_transport`. A keyword goes before the URL, the URL before the environment, that before the file.

{tables}
"""


def _default(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value}`"


PAGES = {"capabilities.md": capabilities_page, "options.md": options_page}


def main() -> int:
    """Write all pages, or with --check name those that are out of date."""
    stale = []
    for name, page in PAGES.items():
        path = DOCS / name
        text = page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv[1:]:
            stale.append(name)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"docs/{name} is written")
    if stale:
        print(f"out of date: {', '.join(stale)}; run `make docs`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
