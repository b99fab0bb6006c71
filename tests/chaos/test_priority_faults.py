"""Messages of every priority, while the workers that handle them are killed."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.chaos.conftest import MakeSystem
from tests.chaos.report import Rows
from tests.chaos.system import Load

pytestmark = pytest.mark.timeout(900)


async def test_each_priority_loses_nothing_and_keeps_its_order_though_workers_are_killed_again_and_again(
    system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    kills = 20 if long else 4
    async with system() as one:
        await one.begin(workers=2)
        # Slow agents have a backlog of all priorities, parked and in their mailboxes, whenever somebody dies.
        agents = await one.spawn(50) + await one.spawn(10, "slow")
        async with one.load(agents, Load(rate=2000, senders=8, batch=25, priorities=True)) as load:
            for _ in range(kills):
                await asyncio.sleep(rng.uniform(0.2, 0.8))
                await one.kill(rng.choice(one.running("worker")))
                await one.all_ready(one.start("worker"))
                await one.all_ready(*one.running("worker"))
            await asyncio.sleep(0.5)
        verdict = await one.settled()
    assert not load.errors
    assert not verdict.overlapping
    rows.add("kill -9 of a worker, all priorities", verdict, kills, load.seconds, [])
