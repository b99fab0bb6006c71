"""Tasks, while the workers that keep them and those that do them are killed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from swell import Client
from tests.chaos.test_later_faults import handled
from tests.chaos.workers import Workers, settled
from tests.integration.fleet import Note
from tests.integration.services import PATIENCE_S
from tests.integration.test_worker import spawn

pytestmark = pytest.mark.timeout(300)
AGENTS = [f"notary/{number}" for number in range(20)]


async def test_every_task_ends_once_with_its_result_though_workers_are_killed_again_and_again(
    client: Client, workers: Workers, tmp_path: Path, rng: random.Random, long: bool
) -> None:
    count, kills = (20_000, 10) if long else (4_000, 3)
    await spawn(client, *AGENTS)

    async def submit() -> list[str]:
        ids: list[str] = []
        for first in range(0, count, 100):
            notes = [Note("me", seq) for seq in range(first, first + 100)]
            ids += await client.submit_many("notary", "note_twice", notes, key=f"f{first}")
            await asyncio.sleep(0.02)
        return ids

    submitting = asyncio.create_task(submit())
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.3, 1.5))
        await workers.kill_one()
    ids = await submitting

    async def result(place: int) -> None:
        task = await client.task(ids[place], timeout=2 * PATIENCE_S)
        assert await task.result(int) == 2 * place
        task.forget()

    await asyncio.gather(*(result(place) for place in range(count)))
    found = await settled(client)
    assert sum(one.dead for one in found) == 0
    views = await client.tasks(limit=count + 1)
    assert len(views) == count
    assert {view.state for view in views} == {"done"}
    # No outcome is left on its way.
    for shard in client.shard_names:
        assert all(id.startswith("$task/") for id in await client.broker.tasks(shard))
    workers.kill()
    assert handled(tmp_path) == set(range(count))
