"""Messages for later, while the workers that keep them are killed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from swell import Client
from tests.chaos.workers import Workers, settled
from tests.integration.fleet import Note
from tests.integration.test_worker import spawn

pytestmark = pytest.mark.timeout(300)
AGENTS = [f"notary/{number}" for number in range(20)]


def handled(directory: Path) -> set[int]:
    """The numbers that agents wrote down, in whatever process."""
    return {int(line.split()[1]) for file in directory.glob("*.[0-9]*") for line in file.read_text().splitlines()}


async def test_each_delayed_message_is_sent_once_though_workers_are_killed_again_and_again(
    client: Client, workers: Workers, tmp_path: Path, rng: random.Random, long: bool
) -> None:
    count, kills, span_s = (10_000, 10, 15.0) if long else (1500, 3, 3.5)
    await spawn(client, *AGENTS)
    notes = [
        client.send(rng.choice(AGENTS), "note", Note("me", seq), delay=rng.uniform(0.0, span_s)) for seq in range(count)
    ]
    await asyncio.gather(*notes)
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.2, 0.8 * span_s / kills))
        await workers.kill_one()
    found = await settled(client)
    # Each is a message twice: the request to keep it, and itself when it was due. Neither is there more often.
    assert sum(one.sent for one in found) == len(AGENTS) + 2 * count
    assert sum(one.dead + one.expired for one in found) == 0
    workers.kill()
    assert handled(tmp_path) == set(range(count))
