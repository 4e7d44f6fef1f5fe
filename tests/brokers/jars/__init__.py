"""The Java servers' jars: fetched from Maven Central once, kept outside of the tree, checked by hash at each use.

What is wanted stands in NAME.pom.xml, what it has to be in NAME.sha256. After a change of a pom, run
`python -m tests.brokers.jars --write NAME` and look at what changed in the list before it is committed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.brokers.process import ServerFailed
from tests.brokers.server import program

__all__ = ["fetched", "hashes", "java", "listed"]

_HERE = Path(__file__).parent
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_JAVA_CURE = "install it with: apt-get install -y --no-install-recommends openjdk-17-jdk-headless"
_MAVEN_CURE = "install it with: apt-get install -y --no-install-recommends maven"


def java() -> str:
    """The Java runtime. Raises ServerFailed with the cure."""
    return program("java", cure=_JAVA_CURE)


def listed(name: str) -> dict[str, str]:
    """The jars that a server is made of, by file name: their SHA-256."""
    lines = (_HERE / f"{name}.sha256").read_text(encoding="ascii").splitlines()
    return {file: digest for digest, file in (line.split() for line in lines)}


def hashes(folder: Path) -> dict[str, str]:
    """The jars of a folder, by file name: their SHA-256."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.jar"))}


def fetched(name: str) -> Path:
    """A folder with the jars of a server, downloaded if need be.

    MESSAGING_TEST_CACHE says where they are kept; without it, messaging-tests in the user's cache folder. Raises
    ServerFailed where Maven is missing or fails, or where a jar is not the one that is listed.
    """
    wanted = listed(name)
    version = hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()[:12]
    cache = _cache()
    folder = cache / f"{name}-{version}"
    with _alone(cache, name):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as partial:
                download(name, Path(partial), cache / "repository")
                _check(name, hashes(Path(partial)), wanted, "what Maven delivered")
                shutil.copytree(partial, folder.with_suffix(".partial"), dirs_exist_ok=True)
            folder.with_suffix(".partial").rename(folder)
        _check(name, hashes(folder), wanted, f"{folder} (remove it to have it fetched again)")
    return folder


def download(name: str, target: Path, repository: Path) -> None:
    """Let Maven put a server's jars into a folder; `repository` is its own store."""
    maven = program("mvn", cure=_MAVEN_CURE)
    settings = [f"-Dmaven.repo.local={repository}", f"-DoutputDirectory={target}", "-DincludeScope=runtime"]
    command = [maven, "--quiet", "--batch-mode", "--file", str(_HERE / f"{name}.pom.xml"), *settings, _PLUGIN]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise ServerFailed(f"Maven could not fetch the jars of {name}; it needs Maven Central:\n{done.stdout[-3000:]}")


def _check(name: str, found: dict[str, str], wanted: dict[str, str], where: str) -> None:
    if found != wanted:
        wrong = sorted(set(found.items()) ^ set(wanted.items()))
        raise ServerFailed(f"the jars of {name} are not those of {name}.sha256: {where}; different: {wrong}")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("MESSAGING_TEST_CACHE") or Path(base) / "messaging-tests")
    cache.mkdir(parents=True, exist_ok=True)
    return cache


@contextmanager
def _alone(cache: Path, name: str) -> Iterator[None]:
    """Two runs on one machine do not fetch the same thing twice."""
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
