"""Every example in the documents is Python, those that are marked run, and so do the programs in examples/.

A fenced block that says `python` must compile. One that stands under the line `<!-- run -->` is also executed, in a
process of its own; it must exit with 0.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo.__main__ import Failed, Story
from tests.house.source import ROOT, name, text_files

_BLOCK = re.compile(r"^(?P<run><!-- run -->\n)?```python\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


def _blocks() -> list[tuple[str, str, bool]]:
    found = []
    for path in text_files():
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            for match in _BLOCK.finditer(text):
                line = text.count("\n", 0, match.start("code")) + 1
                found.append((f"{name(path)}:{line}", match["code"], match["run"] is not None))
    return found


def _run(module: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, f"{module}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_examples_are_python() -> None:
    """Each example can be compiled; what is no Python is not fenced as Python."""
    for where, code, _ in _blocks():
        compile(code, where, "exec", dont_inherit=True)


def test_marked_examples_run(tmp_path: Path) -> None:
    """Each example that is marked to run does so, from a directory that is not ours, and exits with 0."""
    script = tmp_path / "example.py"
    program = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    for where, code in [(where, code) for where, code, marked in _blocks() if marked]:
        script.write_text(code, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    ("module", "last"),
    [
        ("with_asyncio", "gave up, and so did the server"),
        ("typed_calls", "refused: version 3.0 of rooms is not served here; versions here: 2.1"),
        ("retry_and_dead_letters", "dead letter: invoice.created 13, attempt 3: ValueError: unlucky"),
    ],
)
@pytest.mark.parametrize("transport", ["memory", "zmq"])
def test_examples_run_over_every_transport(module: str, last: str, transport: str, tmp_path: Path) -> None:
    """Each example comes to its last line, whatever carries its messages."""
    url = {"memory": "memory://", "zmq": f"zmq+local://{tmp_path}"}[transport]
    assert _run(module, url).splitlines()[-1] == last


def test_the_hybrid_example_takes_its_transports_from_file_and_environment(tmp_path: Path) -> None:
    """The file names two transports, and the environment replaces one of them."""
    place = f"zmq+local://{tmp_path}"
    assert _run("hybrid", MESSAGING_RPC_URL=place).startswith("RPC over zmq://, notifications over memory://")
    said = _run("hybrid", MESSAGING_RPC_URL=place, MESSAGING_NOTIFY_URL=place)
    assert said.startswith("RPC over zmq://, notifications over zmq://")


def test_the_demo_tells_its_story_and_leaves_nothing() -> None:
    """`make demo` exits with 0 after its last step, and no process of it is left."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = demo.communicate(timeout=50)
    finally:
        demo.kill()
    assert demo.returncode == 0, said
    assert "every step happened as it should" in said.splitlines()[-1]
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.pid, 0)


def test_an_interrupted_demo_leaves_nothing() -> None:
    """Ctrl-C ends the demo and its processes."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "examples.demo"], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert demo.stdout is not None
        said = next(line for line in demo.stdout if "can be reached" in line)
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=30)
    finally:
        demo.kill()
    assert demo.returncode == 128 + signal.SIGINT, said
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.pid, 0)


def test_the_demo_says_which_step_did_not_happen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that ends too early, and one that stays silent, fail the demo with a line that names them."""
    with Story(f"zmq+local://{tmp_path}") as story:
        story.start("nobody", "client")
        with pytest.raises(Failed, match="nobody ended with status 1 before it said 'never'"):
            story.expect("nobody", "never")
        assert "NoRoute: nobody serves topic 'inventory'" in capsys.readouterr().out
        story.start("silent", "service", "silent")
        with pytest.raises(Failed, match="silent did not say 'never' within"):
            story.expect("silent", "never", within=0.5)
