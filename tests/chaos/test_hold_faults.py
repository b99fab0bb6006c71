"""What is paused, set apart, drained, limited and let go, while the workers that do it are killed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from swell import Client
from tests.chaos.held import BEGINS
from tests.chaos.workers import Workers, settled
from tests.integration.fleet import Note
from tests.integration.services import PATIENCE_S
from tests.integration.test_worker import account, spawn

pytestmark = pytest.mark.timeout(300)
NUMBERS = range(10)
AGENTS = [f"{type}/{type}{number}" for type in ("plain", "sleeper", "narrow") for number in NUMBERS]
PAUSED = AGENTS[:3]
APART = AGENTS[3]


@pytest.fixture
def app() -> str:
    return "tests.chaos.held:app"


def told(directory: Path, id: str) -> list[int]:
    """The numbers that an agent wrote down, each where it came first; in no life of its own does it go back or leap."""
    lives: list[list[int]] = []
    for process in account(directory, id.partition("/")[2]):
        for sender, number in process:
            if sender == BEGINS:
                lives.append([])
            lives[-1].append(number)
    lives.sort()
    for _, *numbers in lives:
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    return list(dict.fromkeys(number for _, *numbers in lives for number in numbers))


class Sender:
    """Tells every agent the numbers from 0 on, in bursts."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.next = 0

    async def burst(self, count: int) -> None:
        numbers = range(self.next, self.next + count)
        self.next += count
        await self.client.send_many((id, "note", Note("me", seq)) for seq in numbers for id in AGENTS)


async def test_holds_stay_and_nothing_is_lost_or_reordered_though_workers_are_killed_again_and_again(
    client: Client, workers: Workers, tmp_path: Path, rng: random.Random, long: bool
) -> None:
    kills, size = (10, 400) if long else (3, 100)
    sender = Sender(client)
    await spawn(client, *AGENTS)
    await sender.burst(size)
    for id in PAUSED:
        await client.pause(id, reason="held")
    assert await client.quarantine(agent=APART, reason="apart") == [APART]
    held = {id: told(tmp_path, id) for id in (*PAUSED, APART)}
    for _ in range(kills):
        await sender.burst(size)
        await asyncio.sleep(rng.uniform(0.0, 0.3))
        await workers.kill_one()
        await asyncio.sleep(rng.uniform(0.2, 0.8))
    assert {id: told(tmp_path, id) for id in held} == held, "nothing of them was begun by anybody"
    states = {view.id: view.state for view in await client.agents(limit=1000)}
    assert {states[id] for id in PAUSED} == {"paused"}
    assert states[APART] == "quarantined"

    # A drain whose workers die under it is carried on by the next owners, and holds back what came behind it.
    await sender.burst(size)
    before = sender.next
    draining = asyncio.ensure_future(client.drain(type="narrow", timeout=PATIENCE_S * 2))
    await asyncio.sleep(0.1)
    await sender.burst(size)
    await workers.kill_one()
    assert await draining == len(NUMBERS)
    await workers.kill_one()
    for id in AGENTS[-len(NUMBERS) :]:
        assert told(tmp_path, id) == list(range(before)), id
    assert {view.state for view in await client.agents("narrow")} == {"paused"}

    # Those that are let go come back for what is sent to them, also when their worker dies meanwhile.
    async with asyncio.timeout(PATIENCE_S):
        while {view.state for view in await client.agents("sleeper")} != {"passive"}:
            await asyncio.sleep(0.05)
    await workers.kill_one()
    await sender.burst(size)
    for type in ("plain", "narrow"):
        await client.resume(type=type, all=True, timeout=PATIENCE_S)
    assert sum(one.dead + one.expired for one in await settled(client)) == 0
    workers.kill()
    for id in AGENTS:
        assert told(tmp_path, id) == list(range(sender.next)), id
