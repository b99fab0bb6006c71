"""Everything at once, in a random order: whatever is asked of a fleet, nothing is lost, doubled or reordered."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from swell import Agent, App, CallTimeout, Cancelled, field, handler
from swell.testing import Fleet, run_in_virtual_time, running
from tests.unit.brokers import LONG_MS, rig_of

TYPES = ("plain", "sleeper", "narrow", "paced")
IDS = [f"{type}/{key}" for type in TYPES for key in "abc"]
ROUNDS = 60


class Kept(msgspec.Struct):
    heard: list[int] = []


class Listener(Agent):
    """Keeps what it heard: its state is settled with its messages, so it is what the ledger says."""

    state: Kept

    @handler
    async def note(self, body: int) -> None:
        if body % 7 == 0:
            await asyncio.sleep(0.01)
        self.state.heard.append(body)

    @handler
    async def heard(self) -> list[int]:
        return self.state.heard


app = App("mixed")
app.agent("plain")(Listener)
app.agent("sleeper", idle_after=0.05)(Listener)
app.agent("narrow", concurrency=2)(Listener)
app.agent("paced", rate=300, idle_after=0.2)(Listener)


async def patient(call: Awaitable[object]) -> None:
    """Ask for something that others may take back, or that may take too long beside them."""
    with contextlib.suppress(Cancelled, CallTimeout):
        await call


def actions(fleet: Fleet, rng: random.Random) -> list[Callable[[], Awaitable[object]]]:
    client = fleet.client

    async def replace_worker() -> None:
        await fleet.start_worker()
        await (fleet.kill_worker() if rng.random() < 0.5 else fleet.stop_worker())

    def agent() -> str:
        return rng.choice(IDS)

    def type() -> str:
        return rng.choice(TYPES)

    return [
        lambda: client.pause(agent(), timeout=5),
        lambda: client.resume(agent()),
        lambda: client.drain(agent(), timeout=5),
        lambda: client.pause(type=type(), timeout=5),
        lambda: client.resume(type=type(), all=rng.random() < 0.5),
        lambda: client.drain(type=type(), timeout=5),
        lambda: client.limit(type(), concurrency=rng.randrange(4), rate=rng.choice((0, 50, 1000))),
        lambda: client.limit(type(), reset=True),
        lambda: client.quarantine(type(), where=field("queued") > rng.randrange(20)),
        replace_worker,
    ]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_asked_in_whatever_order_each_agent_hears_everything_once_and_in_order(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        sent = dict.fromkeys(IDS, 0)
        async with running(app, workers=2, shards=4, mailbox=16) as fleet:
            for type in TYPES:
                await fleet.spawn(type, keys=list("abc"))
            asked = []
            for _ in range(ROUNDS):
                for id in rng.sample(IDS, 6):
                    count = rng.randrange(40)
                    await fleet.client.send_many((id, "note", sent[id] + number) for number in range(count))
                    sent[id] += count
                asked.append(asyncio.ensure_future(patient(rng.choice(actions(fleet, rng))())))
                await asyncio.sleep(rng.choice((0.0, 0.01, 0.3)))
            await asyncio.gather(*asked)
            for type in TYPES:
                await fleet.client.limit(type, reset=True)
                await fleet.client.resume(type=type, all=True)
            await fleet.quiet(within=600)
            for id in IDS:
                assert await fleet.client.ask(id, "heard") == list(range(sent[id])), id
            assert await fleet.dead() == []
            assert all(ledger.balanced for ledger in await fleet.client.ledger())

    run_in_virtual_time(main)


async def test_what_waits_for_a_paused_agent_takes_no_memory_in_its_worker() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app, lease_ms=LONG_MS)
        await rig.spawn("plain/a", "plain/b")
        await rig.client.pause("plain/a")
        await rig.client.send_many(("plain/a", "note", number) for number in range(3000))
        await rig.client.ask("plain/b", "heard")
        shard = worker.consumer.owned["0"]
        assert len(shard.open) > 10
        assert shard.held_bytes == 0
        await rig.client.resume("plain/a")
        await rig.settled()
        assert await rig.client.ask("plain/a", "heard") == list(range(3000))
