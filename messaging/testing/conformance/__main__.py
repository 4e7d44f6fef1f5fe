"""The command: `python -m messaging.testing.conformance URL`, for a driver's author who has no tests yet."""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
from collections.abc import Sequence

from messaging.errors import MessagingError
from messaging.testing.conformance import FACES, SCENARIOS, Failure, Result, Subject, Verdict, matrix, run

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite over each URL and print what became of each scenario; 1 when one has failed, 2 for misuse."""
    options = _parser().parse_args(arguments)
    if options.list:
        for scenario in SCENARIOS:
            _say(f"{scenario.name:28} {scenario.group:14} {scenario.promise}")
        return 0
    if not options.url:
        _parser().error("name at least one URL, for example memory:// or 'memory://{}'")
    results: dict[str, list[Result]] = {}
    before = logging.root.manager.disable
    # What scenarios provoke is no news; what they find is in the results.
    logging.disable(logging.NOTSET if options.verbose else logging.CRITICAL)
    try:
        for url in options.url:
            tell = None if options.matrix else _tell
            results[url] = run(_subject(url), faces=options.face or FACES, only=options.only, tell=tell)
    except (MessagingError, Failure) as error:
        _say(f"{url}: {error}")
        return 2
    finally:
        logging.disable(before)
    if options.matrix:
        chosen = [result.scenario for result in next(iter(results.values()))]
        columns = {url: matrix.found(found) for url, found in results.items()}
        _say(matrix.promise_table(dict.fromkeys(chosen), columns))
    everything = [result for found in results.values() for result in found]
    counts = {verdict: sum(result.verdict is verdict for result in everything) for verdict in Verdict}
    _say(", ".join(f"{count} {verdict.value}" for verdict, count in counts.items()))
    return 1 if counts[Verdict.FAILED] else 0


def _subject(url: str) -> Subject:
    return Subject(lambda: url.replace("{}", secrets.token_hex(6)), name=url)


def _tell(result: Result) -> None:
    _say(f"{result} ({result.seconds:.2f} s)" if result.seconds else str(result))
    if result.verdict is Verdict.FAILED:
        _say(result.trace)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m messaging.testing.conformance", description=__doc__)
    parser.add_argument("url", nargs="*", help="a transport's URL; {} in it becomes a new name for each scenario")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a scenario or group; repeatable")
    parser.add_argument("--face", action="append", choices=FACES, help="run over this face alone; repeatable")
    parser.add_argument("--matrix", action="store_true", help="print the results as tables in Markdown")
    parser.add_argument("--list", action="store_true", help="print the scenarios and their promises")
    parser.add_argument("--verbose", action="store_true", help="let the library log")
    return parser


if __name__ == "__main__":
    sys.exit(main())
