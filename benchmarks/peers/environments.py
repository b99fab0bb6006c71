"""A virtual environment for each system, below out/peers, with pinned versions."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.contract import Facts

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "peers"
REQUIREMENTS = Path(__file__).parent / "requirements"
#: Making one takes no longer, seconds.
INSTALL_S = 300.0


class NotInstalled(Exception):
    """An environment could not be made; the message is the installer's."""


def python_of(environment: str) -> Path:
    """The interpreter of an environment, which is made if need be; Swell's own if the name is empty.

    Args:
        environment: the name of a file in `requirements`, and of a directory below out/peers.

    Raises:
        NotInstalled: it could not be made.
    """
    if not environment:
        return Path(sys.executable)
    requirements = REQUIREMENTS / f"{environment}.txt"
    directory = OUT / environment
    python = directory / "bin" / "python"
    stamp = directory / ".installed"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and python.exists():
        return python
    _run([sys.executable, "-m", "venv", "--clear", str(directory)])
    # uv is there after `make setup`; pip does the same, slower.
    uv = Path(sys.executable).with_name("uv")
    if uv.exists():
        _run([str(uv), "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)])
    else:
        _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
    stamp.write_text(wanted)
    return python


def facts_of(python: Path, name: str) -> Facts:
    """What the module of a system tells about it; only its own environment can import it.

    Raises:
        NotInstalled: it cannot be imported.
    """
    return Facts(**json.loads(_run([str(python), "-m", "benchmarks.peers.entry", "facts", name])))


def version_of(python: Path, package: str) -> str:
    """The version of a package in an environment.

    Raises:
        NotInstalled: it is not there.
    """
    code = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    return _run([str(python), "-c", code, package]).strip()


def search_path() -> dict[str, str]:
    """The environment variables with which any of the interpreters finds this package and Swell's sources."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "shared", ROOT / "services")))
    return os.environ | {"PYTHONPATH": path}


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_S, check=False, env=search_path(), cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"`{' '.join(command)}` took longer than {INSTALL_S:g} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalled(lines[-1] if lines else f"exit code {done.returncode}")
    return done.stdout
