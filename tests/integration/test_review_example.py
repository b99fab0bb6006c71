"""The review example on the whole system: `swell up` in its own processes, and the command as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
#: For each process to begin or to end; far more than it takes, so that a hanging one ends the test with its output.
PATIENCE_S = 60

TREE = {
    "good.py": '"""Good."""\n\n\ndef f(x: int) -> int:\n    """Add one."""\n    return x + 1\n',
    "pkg/bad.py": '"""Bad."""\nimport os\n\n\ndef f(x=[]):\n    """Do."""\n    return x is 1\n',
    "pkg/deep/broken.py": "def f(:\n",
    **{f"many/m{number:03d}.py": f'"""Number {number}."""\nassert ({number}, "true")\n' for number in range(100)},
}
FOUND = {
    ("pkg/bad.py", 2, "unused-import"),
    ("pkg/bad.py", 5, "mutable-default"),
    ("pkg/bad.py", 7, "is-literal"),
    ("pkg/deep/broken.py", 1, "syntax-error"),
    *((f"many/m{number:03d}.py", 2, "assert-tuple") for number in range(100)),
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The variables of all processes of one test: their own data directory, nothing of the surroundings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")}
    return kept | {"SWELL_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


@pytest.fixture
def system(environ: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`swell up` with two workers that run the review's app."""
    log = tmp_path / "up.log"
    with log.open("w") as said:
        up = subprocess.Popen(
            [sys.executable, "-m", "swell", "up", "--app", "examples.review.app:app", "--workers", "2", "--json"],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    assert up.stdout is not None
    try:
        assert up.stdout.readline(), f"swell up ended:\n{log.read_text()}"
        yield up
    finally:
        up.send_signal(signal.SIGINT)
        try:
            code = up.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()
            raise
        finally:
            up.stdout.close()
    assert code == 0, log.read_text()


def swell(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=PATIENCE_S
    )


@pytest.mark.usefixtures("system")
def test_the_command_reviews_a_tree_with_a_fleet_and_leaves_no_agent_behind(
    environ: dict[str, str], tmp_path: Path
) -> None:
    for path, text in TREE.items():
        place = tmp_path / "tree" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    out = tmp_path / "out"
    options = ("--agents", "60", "--wave-size", "10", "--out", str(out))
    done = swell(environ, "examples.review", str(tmp_path / "tree"), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(TREE)} of {len(TREE)} files" in done.stdout
    data: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert {(item["path"], item["line"], item["rule"]) for item in data["findings"]} == FOUND
    assert data["totals"]["disputed"] == 0
    assert data["fleet"]["agents"] == 60
    assert sum(crew["waves"] for crew in data["fleet"]["crews"]) >= 6
    assert data["fleet"]["success_ratio"] == 1.0
    assert data["fleet"]["results"]["count"] > 0
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "report.md"]
    ledger = swell(environ, "swell", "ledger", "--check")
    assert ledger.returncode == 0, ledger.stdout + ledger.stderr


def test_a_tree_that_is_no_folder_is_refused_with_its_name(environ: dict[str, str], tmp_path: Path) -> None:
    done = swell(environ, "examples.review", str(tmp_path / "none"))
    assert done.returncode == 1
    assert f"{tmp_path / 'none'} is not a folder" in done.stderr


def test_without_a_system_the_command_says_how_to_start_one(environ: dict[str, str], tmp_path: Path) -> None:
    done = swell(environ, "examples.review", str(tmp_path), "--redis", "redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert "swell up --app examples.review.app:app" in done.stderr
    assert "Traceback" not in done.stderr
