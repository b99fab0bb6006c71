"""`swell bench` as users run it: a system of its own, and a deployment that does not run its agents."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from swell.bench import system
from swell.errors import BrokerUnavailable
from tests.conftest import RealServer
from tests.integration.services import PATIENCE_S, Service

SMALL = {
    "throughput": ["--messages", "20000"],
    "latency": ["--rate", "500", "--rate", "2000", "--seconds", "0.5"],
    "ask": ["--seconds", "0.5"],
    "spawn": ["--agents", "300", "--singles", "3"],
    "fanout": ["--agents", "300", "--rounds", "2"],
    "memory": ["--agents", "300"],
    "soak": ["--rate", "1000", "--seconds", "2", "--every", "1"],
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swell", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE_S)


@pytest.mark.parametrize("part", SMALL)
def test_every_part_measures_and_ends_with_a_clean_account(part: str) -> None:
    ended = bench(part, *SMALL[part], "--json")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    found = json.loads(ended.stdout)
    assert (found["ok"], found["problems"], found["part"]) == (True, [], part)
    delivery = found["delivery"]
    assert delivery["sent"] == delivery["handled"] == delivery["settled"]
    assert all(value >= 0 for value in found["figures"].values())
    assert not ended.stderr


def test_people_get_a_table_and_the_account(tmp_path: object) -> None:
    ended = bench("soak", *SMALL["soak"], "--plot", f"{tmp_path}/soak.svg")
    assert ended.returncode == 0, ended.stderr
    assert "p95_ms" in ended.stdout
    assert "sent 2,000, handled 2,000, settled 2,000, twice 0, out of order 0" in ended.stdout


async def test_a_deployment_without_our_agents_is_told_how_to_have_them(
    start: Callable[..., Service], valkey: RealServer, namespace: str
) -> None:
    worker = start("worker")
    await worker.ready()
    ended = bench("throughput", "--redis", valkey.url, "--namespace", namespace)
    assert ended.returncode == 2
    assert "swell worker --app swell.bench.agents:app" in ended.stderr


async def test_a_deployment_with_our_agents_is_measured(
    start: Callable[..., Service], valkey: RealServer, namespace: str
) -> None:
    for service in [start("manager"), start("worker", app="swell.bench.agents:app")]:
        await service.ready()
    where = ["--redis", valkey.url, "--namespace", namespace, "--json"]
    ended = bench("throughput", "--messages", "5000", *where)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["delivery"]["handled"] == 5000


def test_wrong_numbers_are_named() -> None:
    ended = bench("throughput", "--agents", "0")
    assert ended.returncode == 2
    assert "agents: 0 must be at least 1" in ended.stderr


async def test_a_system_that_does_not_get_ready_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    async def fails(*arguments: Any) -> None:
        started.extend(arguments[1])
        raise BrokerUnavailable("not ready")

    monkeypatch.setattr(system, "_ready", fails)
    with pytest.raises(BrokerUnavailable, match="not ready"):
        async with system.own():
            raise AssertionError("it is not ready")
    assert len(started) == 3
    assert [service for service in started if service.poll() is None] == []
