"""Warm pools on the whole system: the example as its README says, and what a worker says of its pools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx

from tests.conftest import RealServer
from tests.integration.services import Service
from tests.integration.test_topics import run

Start = Callable[..., Service]


async def test_the_example_runs_as_its_readme_says(
    start: Start, valkey: RealServer, namespace: str, tmp_path: Path
) -> None:
    worker = start("worker", app="examples.pools.app:app")
    await worker.ready()
    await start("manager", app="examples.pools.app:app").ready()
    async with httpx.AsyncClient() as http:
        said = (await http.get(await worker.url() + "/readyz")).text
    assert "warm: " in said
    ended = await run(["examples.pools"], valkey, namespace)
    assert ended.returncode == 0, ended.stderr
    warm, cold = ended.stdout.splitlines()
    for line, type in ((warm, "warm"), (cold, "cold")):
        assert line.startswith(f"{type}: ready after ")
        assert line.endswith("; the text breaks a rule: True")
