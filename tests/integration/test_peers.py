"""The harness of the comparison, with Swell's own entry in its quick size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.peers import environments, processes, turn
from benchmarks.peers.__main__ import SWELL


@pytest.fixture(scope="module")
def python() -> Path:
    return environments.python_of("")


def test_swell_is_measured_and_every_message_accounted_for(python: Path) -> None:
    sizes = turn.Sizes(flood_s=0.1, rate_s=0.2, ask_s=0.1)
    facts = environments.facts_of(python, SWELL)
    seen = turn.measure(SWELL, facts, python, sizes, aof=True)
    assert seen.verified
    assert seen.throughput > 0
    assert [(at.rate, at.sent, at.handled) for at in seen.rates] == [(500, 100, 100), (5000, 1000, 1000)]
    assert all(0 < at.p50_ms <= at.p95_ms <= at.p99_ms for at in seen.rates)
    assert seen.asks > 0


def test_a_process_that_fails_tells_why(python: Path, tmp_path: Path) -> None:
    child = processes.Child(python, ["send", "no_such_system", "redis://127.0.0.1:1/0"], tmp_path / "log")
    try:
        with pytest.raises(processes.PeerFailed, match="no_such_system"):
            child.ask(60, do="left")
    finally:
        child.close()


def test_a_system_that_cannot_be_imported_is_told(python: Path) -> None:
    with pytest.raises(environments.NotInstalled, match="no_such_system"):
        environments.facts_of(python, "no_such_system")


def test_a_package_that_is_not_there_is_told() -> None:
    with pytest.raises(environments.NotInstalled, match="no-such-package"):
        environments.version_of(Path(sys.executable), "no-such-package")
