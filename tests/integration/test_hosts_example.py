"""The example of hosts as a user runs it: real services, real processes, a server beside them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RealServer
from tests.integration.services import PATIENCE_S, Service

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[str]:
    """The example's own server; its URL."""
    command = [sys.executable, "-m", "examples.hosts.server", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        yield process.stdout.readline().strip()
        process.terminate()
        process.wait(PATIENCE_S)


def run_example(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.hosts"]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=2 * PATIENCE_S)


def children_of(pid: int) -> list[str]:
    """The command lines of a process's children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path(f"/proc/{child}/cmdline").read_text() for child in children]


async def test_one_agent_of_each_kind_answers_and_their_processes_end_with_them(
    start: Callable[..., Service], valkey: RealServer, namespace: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXAMPLE_SERVER", server)
    worker = start("worker", app="examples.hosts.app:app")
    for service in (worker, start("manager")):
        await service.ready()
    environ = os.environ | {"SWELL_REDIS": valkey.url, "SWELL_NAMESPACE": namespace}
    ended = await asyncio.to_thread(run_example, environ)
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout.splitlines()
    assert said[0] == "greeter/1 greet: hello Ada"
    assert len(said[1].removeprefix("digester/1 digest: ")) == 64
    assert said[2] == "counter/1 primes_below: 78498"
    assert said[3].startswith("linter/1 lint: {'lines': ")
    assert said[4] == "scorer/1 score: {'score': 2}"
    assert said[5] == "writer/1 say: you said 'good morning', 2 messages so far"
    assert said[6] == "writer/1 say: you said 'and again', 4 messages so far"
    assert said[7].startswith("writer/1 stream: [you ] [said ] ['tell ] [me ] [more', ] [6 ] [messages")
    assert not [command for command in children_of(worker.pid) if "lint.py" in command]
