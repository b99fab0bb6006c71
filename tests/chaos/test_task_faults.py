"""Tasks, while the workers that keep them and those that do them are killed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path

import pytest

from swell import Cancelled, Client
from swell.task import PREFIX
from swell.wire import TERMINATE
from tests.chaos.test_later_faults import handled
from tests.chaos.workers import Workers, settled
from tests.integration.fleet import Note
from tests.integration.services import PATIENCE_S
from tests.integration.test_worker import spawn

pytestmark = pytest.mark.timeout(300)
AGENTS = [f"notary/{number}" for number in range(20)]
CLERKS = [f"clerk/{number}" for number in range(12)]
BURNERS = [f"burner/{number}" for number in range(8)]
#: Clerks that are ended and begun again while the others stay.
FICKLE = CLERKS[:6]


async def no_outcome_left(client: Client) -> None:
    """None is on its way to its task's home."""
    for shard in client.shard_names:
        assert all(id.startswith(PREFIX) for id in await client.broker.tasks(shard))


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
    await no_outcome_left(client)
    workers.kill()
    assert handled(tmp_path) == set(range(count))


async def burn(client: Client) -> None:
    """Every worker's loop stands still a third of the time, so that what it hears, it hears late."""
    while True:
        await client.send_many((agent, "burn", None) for agent in BURNERS)
        await asyncio.sleep(0.25)


async def churn(client: Client, rng: random.Random) -> None:
    """Agents end and begin again; a task that one should have goes to another."""
    while True:
        agent = rng.choice(FICKLE)
        await client.request(client.shard(agent), agent, TERMINATE, None, PATIENCE_S)
        await asyncio.sleep(0.02)
        await spawn(client, agent)


async def beside(work: Coroutine[None, None, None], *others: Coroutine[None, None, None]) -> None:
    """Do some work while others never end."""
    async with asyncio.TaskGroup() as group:
        endless = [group.create_task(other) for other in others]
        await work
        for one in endless:
            one.cancel()


@pytest.mark.parametrize("app", ["tests.chaos.chained:app"])
async def test_chains_and_tasks_end_as_they_should_while_agents_come_and_go_and_loops_stand_still(
    client: Client, workers: Workers, rng: random.Random, long: bool
) -> None:
    count = 6_000 if long else 900
    await spawn(client, *CLERKS, *BURNERS)
    ended: Counter[str] = Counter()

    async def one(number: int) -> None:
        steps = [("clerk", rng.choice(["add", "add_slowly"])) for _ in range(3 if number % 2 else 1)]
        task = await client.chain(steps, number, key=f"t{number}", timeout=2 * PATIENCE_S)
        cancelled = False
        if number % 9 == 0:
            await asyncio.sleep(rng.uniform(0.0, 0.1))
            cancelled = await task.cancel()
        try:
            assert await task.result(int) == number + len(steps)
            state = "done"
        except Cancelled:
            state = "cancelled"
        assert (state == "cancelled") == cancelled, number
        ended[state] += 1

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
                await asyncio.sleep(0.2 if number % 20 == 19 else 0)

    await beside(all_of_them(), burn(client), churn(client, rng))
    found = await settled(client)
    assert sum(account.dead for account in found) == 0
    assert Counter(view.state for view in await client.tasks(limit=count + 1)) == ended
    assert ended.total() == count
    assert ended["cancelled"] > 0
    await no_outcome_left(client)
