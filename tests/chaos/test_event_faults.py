"""Events, while the workers that fan them out are killed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from swell import Client
from tests.chaos.workers import Workers, settled
from tests.integration.fleet import Note
from tests.integration.test_worker import spawn

pytestmark = pytest.mark.timeout(300)
AGENTS = [f"notary/{number}" for number in range(40)]


def written(directory: Path) -> dict[str, set[int]]:
    """The numbers that each agent wrote down, in whatever process."""
    heard: dict[str, set[int]] = {}
    for file in directory.glob("*.[0-9]*"):
        numbers = {int(line.split()[1]) for line in file.read_text().splitlines()}
        heard.setdefault(file.name.partition(".")[0], set()).update(numbers)
    return heard


async def test_each_subscriber_gets_each_event_once_though_workers_are_killed_again_and_again(
    client: Client, workers: Workers, tmp_path: Path, rng: random.Random, long: bool
) -> None:
    count, kills = (2000, 10) if long else (300, 3)
    await spawn(client, *AGENTS)
    for agent in AGENTS[:30]:
        await client.subscribe(agent, "news.*", "note")
    for agent in AGENTS[30:]:
        await client.subscribe(agent, "news.*", "note", group="desk")

    async def publish() -> None:
        for seq in range(count):
            await client.publish("news.today", Note("me", seq))
            await asyncio.sleep(0.005)

    publishing = asyncio.ensure_future(publish())
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.2, 0.6))
        await workers.kill_one()
    await publishing
    found = await settled(client)
    assert sum(one.dead + one.expired for one in found) == 0
    events = sum(one.sent for one in found) - 2 * len(AGENTS) - 10 - count * (len(found) + 30)
    # To the group each goes once, and once more for those that were chosen and not acked when a worker died.
    assert count <= events <= count + kills * 256
    workers.kill()
    heard = written(tmp_path)
    for agent in AGENTS[:30]:
        assert heard[agent.partition("/")[2]] == set(range(count)), agent
    desk = Counter(number for agent in AGENTS[30:] for number in heard.get(agent.partition("/")[2], ()))
    assert set(desk) == set(range(count))
