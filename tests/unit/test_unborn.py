"""Messages of other priorities than `$spawn` has, to agents that are being born: they wait, also for the next owner."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from swell import Agent, App, handler
from swell.bus import careful, consumer, settler
from swell.bus.careful import ALONE_DEATHS
from swell.holds import HoldRequest
from swell.priority import PRIORITIES
from swell.wire import HOLD, TO_SHARD
from tests.unit.brokers import MAX_DELIVERIES, NO_WAIT, Rig, WorkerRig, rig_of

app = App("tests")
LEASE_MS = 5000
log: list[Any] = []
gate = asyncio.Event()
starting = asyncio.Event()


@app.agent("slow", timeout=None)
class Slow(Agent):
    async def started(self) -> None:
        starting.set()
        await gate.wait()
        log.append("born")

    @handler
    async def note(self, body: Any) -> None:
        log.append(body)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    global gate, starting
    gate, starting = asyncio.Event(), asyncio.Event()
    log.clear()
    for module in (settler, consumer, careful):
        monkeypatch.setattr(module, "RECONNECT", NO_WAIT)


async def conceived(rig: Rig) -> tuple[WorkerRig, asyncio.Future[Any]]:
    """An agent whose worker has recorded that it is being born."""
    worker = await rig.start(app, lease_ms=LEASE_MS)
    spawning = asyncio.ensure_future(rig.spawn("slow/1"))
    await starting.wait()

    async def recorded() -> bool:
        record = await rig.record("slow/1")
        return record is not None and record.state == "spawning"

    await rig.until(recorded)
    return worker, spawning


async def die(rig: Rig, worker: WorkerRig) -> None:
    await worker.die()
    rig.clock.pass_ms(LEASE_MS + 1)
    starting.clear()


async def parked(rig: Rig, worker: WorkerRig, messages: int) -> None:
    await rig.until(lambda: asyncio.sleep(0, worker.recorder.counter("parked").n >= messages))


async def read_before_birth(rig: Rig, messages: int) -> WorkerRig:
    """The next owner, which has read all but the inbox of normal messages, where `$spawn` is."""
    worker = await _without_normal(rig)
    await parked(rig, worker, messages)
    assert log == []
    worker.fleet.deliver = type(worker.fleet).deliver.__get__(worker.fleet)  # type: ignore[method-assign]
    for entry, batch in worker.__dict__.pop("held"):
        worker.fleet.deliver(entry, batch)
    await starting.wait()
    return worker


async def _without_normal(rig: Rig) -> WorkerRig:
    worker = await rig.start(app, lease_ms=LEASE_MS)
    held: list[Any] = []
    worker.__dict__["held"] = held
    deliver = worker.fleet.deliver

    def other(entry: Any, batch: Any) -> None:
        if entry.inbox is entry.shard:
            held.append((entry, batch))
        else:
            deliver(entry, batch)

    worker.fleet.deliver = other  # type: ignore[method-assign]
    return worker


async def test_what_the_next_owner_reads_before_the_birth_is_handled_after_it_in_order() -> None:
    async with rig_of() as rig:
        first, spawning = await conceived(rig)
        for number in range(3):
            for priority in reversed(PRIORITIES):
                await rig.client.send("slow/1", "note", [priority, number], priority=priority)
        await die(rig, first)
        second = await read_before_birth(rig, 9)
        assert second.fleet.count() == 1
        gate.set()
        await spawning
        await rig.settled()
        assert log == ["born", *([priority, number] for priority in PRIORITIES for number in range(3))]
        assert await rig.letters() == []
        record = await rig.record("slow/1")
        assert record is not None
        assert (record.state, record.generation) == ("ready", 1)


async def test_many_of_them_wait_as_places_and_one_of_them_can_be_cancelled() -> None:
    async with rig_of() as rig:
        first, spawning = await conceived(rig)
        await rig.client.send_many([("slow/1", "note", number) for number in range(5000)], priority="critical")
        await rig.client.send("slow/1", "note", "never", priority="critical", id="one")
        await die(rig, first)
        cancelling = asyncio.ensure_future(rig.client.cancel_message("slow/1", "one"))
        second = await read_before_birth(rig, 5001)
        shard = second.consumer.owned["0"]
        held = sum(entry.size for inbox in shard.inboxes for entry in inbox.open.values())
        assert held < 5000, "their bodies are kept in memory"
        gate.set()
        await spawning
        assert await cancelling
        await rig.settled()
        assert log == ["born", *range(5000)]


async def test_an_agent_is_born_before_anything_else_of_it_is_handled_also_where_it_was_begun() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.until(lambda: asyncio.sleep(0, bool(worker.consumer.owned)))
        turns: Any = worker.fleet._turns
        turns._start = lambda: None  # No turns, until the message lies before the birth.
        spawning = asyncio.ensure_future(rig.spawn("slow/1"))
        await rig.until(lambda: asyncio.sleep(0, worker.fleet.count() == 1))
        await rig.client.send("slow/1", "note", 1, priority="critical")
        (cell,) = worker.fleet.awake
        await rig.until(lambda: asyncio.sleep(0, cell.boxes is not None and not cell.boxes[0].empty))
        del turns._start
        turns._start()
        gate.set()
        await spawning
        await rig.settled()
        assert log == ["born", 1]
        assert await rig.letters() == []


async def test_of_a_paused_type_an_agent_is_born_and_keeps_what_waits_until_it_is_resumed() -> None:
    async with rig_of() as rig:
        first, spawning = await conceived(rig)
        await hold(rig, HoldRequest("pause", type="slow"))
        await rig.client.send("slow/1", "note", 1, priority="critical")
        await die(rig, first)
        await read_before_birth(rig, 1)
        gate.set()
        await spawning
        assert log == ["born"]
        await hold(rig, HoldRequest("resume", type="slow"))
        await rig.settled()
        assert log == ["born", 1]


async def hold(rig: Rig, wanted: HoldRequest) -> None:
    asking = asyncio.ensure_future(rig.client.request("0", TO_SHARD, HOLD, wanted, 10.0))
    if wanted.action == "pause":  # It ends when the agent rests, so not before its worker's death.
        await rig.until(lambda: asyncio.sleep(0, bool(rig.workers[0].fleet.oversight.holds._shards["0"].pending)))
        asking.cancel()
    await asyncio.wait({asking})


async def test_what_waits_for_a_birth_that_kills_its_workers_becomes_dead_letters() -> None:
    async with rig_of() as rig:
        worker, spawning = await conceived(rig)
        for number in range(3):
            await rig.client.send("slow/1", "note", number, priority="critical")
        for _ in range(MAX_DELIVERIES + ALONE_DEATHS - 1):
            await die(rig, worker)
            worker = await rig.start(app, lease_ms=LEASE_MS)
            await starting.wait()
        await die(rig, worker)
        await rig.start(app, lease_ms=LEASE_MS)
        with pytest.raises(Exception, match="processes died"):
            await spawning
        await rig.settled()
        letters = await rig.letters()
        assert sorted(letter.kind for letter in letters) == ["poison", *3 * ["unknown_agent"]]
        assert all("slow/1 is failed: 2 processes died" in one.reason for one in letters if one.kind == "unknown_agent")
        assert log == []
