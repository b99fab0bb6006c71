"""Workers killed under load: a kept state equals what the ledger says is settled; crashed agents are shown."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from swell import Client, HandlerFailed
from swell.bus.broker import Ledger
from swell.codec import decode
from swell.keys import state_id
from swell.wire import Snapshot
from tests.integration.fleet import Note, Tally
from tests.integration.services import Service
from tests.integration.test_worker import account, letters, spawn

Start = Callable[..., Service]

TELLERS = [f"teller/{number}" for number in range(12)]
KILLS = 5
#: Messages sent to each agent at once, until the last kill; how many may wait bounds the load.
BURST = 20
MOST_WAITING = 4000


async def tallies(client: Client) -> dict[str, Tally]:
    """The kept states as they are on the server."""
    found = {}
    for id in TELLERS:
        record = await client.broker.record(client.shard(id), state_id(id))
        assert record is not None
        found[id] = decode(decode(record, Snapshot).state, Tally)
    return found


async def test_states_equal_the_settled_messages_after_workers_were_killed_under_load(
    client: Client, start: Start, tmp_path: Path
) -> None:
    chance = random.Random(7)
    workers = [start("worker"), start("worker")]
    await asyncio.gather(*(worker.ready() for worker in workers))
    await spawn(client, *TELLERS)
    others = (await total(client)).acked

    killed = asyncio.Event()

    async def send() -> int:
        sent = 0
        while not killed.is_set():
            notes = [Note("me", seq) for seq in range(sent, sent + BURST)]
            await client.send_many((id, "note", note) for note in notes for id in TELLERS)
            sent += BURST
            while (await total(client)).depth > MOST_WAITING:
                await asyncio.sleep(0.01)
        return sent

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(send())
        for _ in range(KILLS):
            victim = workers.pop(chance.randrange(2))
            noted = written(tmp_path)
            async with asyncio.timeout(30):
                while written(tmp_path) == noted:
                    await asyncio.sleep(chance.random() / 10)
            victim.kill()
            workers.append(start("worker"))
            await workers[-1].ready()
        killed.set()
    each = sending.result()
    async with asyncio.timeout(60):
        while (await total(client)).depth:
            await asyncio.sleep(0.05)
    found = await tallies(client)
    acked = (await total(client)).acked - others
    assert sum(tally.count for tally in found.values()) == acked == each * len(TELLERS)
    again = 0
    for id, tally in found.items():
        lives = account(tmp_path, id.partition("/")[2])
        distinct = {note for life in lives for note in life}
        again += sum(len(life) for life in lives) - len(distinct)
        assert tally == Tally(len(distinct), {"me": each - 1}, 0)
    print(f"{acked} messages, {KILLS} kills, {again} handled again and counted once")
    assert await client.ask(TELLERS[0], "tally", None, Tally) == found[TELLERS[0]]


async def total(client: Client) -> Ledger:
    """The account of all shards of agents together."""
    ledgers = [await client.broker.ledger(shard) for shard in client.shard_names]
    return Ledger("all", acked=sum(one.acked for one in ledgers), depth=sum(one.depth for one in ledgers))


def written(directory: Path) -> int:
    """Bytes in all accounts."""
    return sum(file.stat().st_size for file in directory.iterdir() if file.suffix != ".log")


async def test_an_agent_that_crashes_too_often_is_shown_as_failed_with_the_reason(client: Client, start: Start) -> None:
    await start("worker").ready()
    await spawn(client, "shaky/1")
    with pytest.raises(HandlerFailed, match="my browser is gone"):
        await client.ask("shaky/1", "crash", timeout=20)
    async with asyncio.timeout(20):
        while (view := (await client.agents("shaky"))[0]).state != "failed":
            await asyncio.sleep(0.05)
    assert (view.state, view.restarts) == ("failed", 1)
    assert "my browser is gone" in view.reason
    assert {letter.kind for letter in await letters(client)} == {"handler_failed"}
