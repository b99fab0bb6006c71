"""Shards that come and go under a worker's agents: births, ends and records through hand-overs, losses, takeovers."""

from __future__ import annotations

import asyncio

import pytest

from swell import Agent, App, UnknownAgent, handler
from swell.bus import consumer, settler
from swell.bus.broker import Inheritance
from swell.codec import decode, encode
from swell.errors import AgentExists, StartFailed, WrongBody
from swell.wire import AgentRecord
from swell_worker import host, retrying, shard_agents
from tests.unit.brokers import NO_WAIT, Rig, rig_of

app = App("tests")


class Log:
    """What the agents did, and what they wait for."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, int]] = []
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()


log = Log()


@app.agent("one", max_attempts=1)
class One(Agent):
    async def started(self, args: str | None) -> None:
        log.started.append(self.key)
        if args == "fail":
            raise ValueError("cannot")
        if args == "wait":
            log.begun.set()
            await log.gate.wait()

    async def stopped(self) -> None:
        log.stopped.append(self.key)

    @handler
    async def note(self, body: int) -> int:
        log.handled.append((self.key, body))
        return body

    @handler
    async def wait(self, body: int) -> None:
        log.begun.set()
        await log.gate.wait()
        log.handled.append((self.key, body))

    @handler
    async def deaf(self, body: int) -> None:
        log.begun.set()
        while not log.gate.is_set():
            try:
                await log.gate.wait()
            except asyncio.CancelledError:
                continue
        log.handled.append((self.key, body))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (settler, consumer):
        monkeypatch.setattr(module, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    monkeypatch.setattr(host, "MOST_ENDING_S", 0.0)
    global log
    log = Log()


async def spawn(rig: Rig, id: str, args: str | None = None, plan: str = "p") -> dict[str, object]:
    request = {"plan": plan} if args is None else {"plan": plan, "args": args}
    return decode(await rig.client.request("0", id, "$spawn", request, 5.0), dict)


async def terminate(rig: Rig, id: str) -> None:
    await rig.client.request("0", id, "$terminate", None, 5.0)


async def test_an_agent_is_born_answers_twice_to_its_plan_ends_and_is_born_again() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await spawn(rig, "one/1")
        assert await spawn(rig, "one/1") == {"start_s": 0.0, "already": True}
        with pytest.raises(AgentExists, match="spawned by plan p"):
            await spawn(rig, "one/1", plan="other")
        await terminate(rig, "one/1")
        with pytest.raises(UnknownAgent, match="is stopped"):
            await rig.client.ask("one/1", "note", 1)
        with pytest.raises(UnknownAgent, match="is stopped"):
            await terminate(rig, "one/1")
        await spawn(rig, "one/1", plan="other")
        assert await rig.client.ask("one/1", "note", 2) == 2
        record = await rig.record("one/1")
        assert record is not None
        assert (record.state, record.plan, record.generation) == ("ready", "other", 2)
        assert (log.started, log.stopped) == (["1", "1"], ["1"])


async def test_an_agent_that_another_plan_has_spawned_anew_is_not_ended_for_its_former_plan() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await spawn(rig, "one/1")
        await terminate(rig, "one/1")
        await spawn(rig, "one/1", plan="other")
        with pytest.raises(AgentExists, match="spawned by plan other, not p"):
            await rig.client.request("0", "one/1", "$terminate", {"plan": "p"}, 5.0)
        with pytest.raises(WrongBody):
            await rig.client.request("0", "one/1", "$terminate", [1], 5.0)
        assert await rig.client.ask("one/1", "note", 2) == 2
        await rig.client.request("0", "one/1", "$terminate", {"plan": "other"}, 5.0)
        assert log.stopped == ["1", "1"]


async def test_what_was_sent_before_the_end_is_handled_what_comes_behind_is_dead_until_the_next_birth() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await spawn(rig, "one/1")
        await rig.client.send_many([("one/1", "note", 1), ("one/1", "$terminate", None), ("one/1", "note", 2)])
        await rig.client.send_many([("one/1", "$spawn", {"plan": "q"}), ("one/1", "note", 3)])
        await rig.settled()
        assert log.handled == [("1", 1), ("1", 3)]
        (letter,) = await rig.letters()
        assert (letter.kind, letter.body) == ("unknown_agent", 2)


async def test_an_agent_that_does_not_start_is_failed_and_may_be_spawned_again() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        with pytest.raises(StartFailed, match="cannot"):
            await spawn(rig, "one/1", "fail")
        with pytest.raises(UnknownAgent, match="is failed: 'started' failed"):
            await rig.client.ask("one/1", "note", 1)
        await spawn(rig, "one/1")
        assert await rig.client.ask("one/1", "note", 1) == 1


async def test_a_spawn_in_an_entry_that_its_owner_left_half_settled_starts_the_agent_once_for_all() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.client.send_many(
            [("one/quick", "$spawn", {"plan": "p"}), ("one/slow", "$spawn", {"plan": "p", "args": "wait"})]
        )
        await log.begun.wait()

        async def half() -> bool:
            return (await rig.broker.ledger("0")).acked == 1

        await rig.until(half)  # The quick one is recorded as settled though its entry is not.
        await first.die()
        log.gate.set()
        # The lease is free at once for a worker that has its name, as when it restarts.
        rig.workers.clear()
        await rig.start(app)
        await rig.settled()
        assert await rig.client.ask("one/quick", "note", 1) == 1
        assert await rig.client.ask("one/slow", "note", 2) == 2
        quick, slow = await rig.record("one/quick"), await rig.record("one/slow")
        assert quick is not None
        assert slow is not None
        assert (quick.state, quick.restarts, slow.state, slow.restarts) == ("ready", 1, "ready", 0)
        assert await rig.letters() == []


async def test_at_a_hand_over_nothing_is_handled_twice_and_order_holds() -> None:
    async with rig_of(8) as rig:
        await rig.start(app)
        ids = [f"one/{number}" for number in range(40)]
        await rig.spawn(*ids)
        sent = 0
        joined = False
        for turn in range(60):
            await rig.client.send_many((id, "note", sent + place) for place, id in enumerate(ids * 3))
            sent += 3 * len(ids)
            if turn == 20 and not joined:
                joined = True
                await rig.start(app)

        async def shared() -> bool:
            return sorted(len(shards) for shards in (await rig.owners()).values()) == [4, 4]

        await rig.until(shared)
        await rig.workers[0].leave()
        await rig.client.send_many((id, "note", sent + place) for place, id in enumerate(ids))
        sent += len(ids)
        await rig.settled()
        assert len(log.handled) == sent
        for id in ids:
            mine = [body for key, body in log.handled if f"one/{key}" == id]
            assert mine == sorted(mine)
        assert await rig.letters() == []


async def test_what_ended_a_moment_ago_is_recorded_before_a_shard_is_handed_over() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.spawn("one/1", "one/2")
        # One entry: two messages are handled at once, the third must wait for a handler that runs at the hand-over.
        await rig.client.send_many(
            [("one/2", "note", 1), ("one/1", "wait", 2), ("one/1", "note", 3), ("one/2", "note", 4)]
        )
        await log.begun.wait()
        leaving = asyncio.ensure_future(first.leave())
        await first.broker.called("wake", 2)
        log.gate.set()
        await leaving
        assert (await rig.broker.ledger("0")).acked == 2 + 3
        await rig.start(app)
        await rig.settled()
        assert log.handled == [("2", 1), ("2", 4), ("1", 2), ("1", 3)]


async def test_a_shard_taken_again_while_its_former_hand_over_still_waits_keeps_its_agents() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("one/1")
        await rig.client.send("one/1", "deaf", 1)
        await log.begun.wait()
        (shard,) = worker.consumer.owned.values()
        shard.stop()
        closing = asyncio.ensure_future(worker.fleet.closing(shard))
        await asyncio.sleep(0)
        worker.consumer.lost(shard)

        async def again() -> bool:
            return "0" in worker.consumer.owned

        await rig.until(again)
        log.gate.set()
        await closing
        assert await rig.client.ask("one/1", "note", 2) == 2


async def test_a_record_that_cannot_be_read_is_reported_and_the_other_agents_live(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("one/1")
        await worker.leave()
        rig.server.namespace("tests").shard("0").records["one/2"] = b"\xc1 no record"
        await rig.start(app)
        assert await rig.client.ask("one/1", "note", 1) == 1
        assert "record cannot be read" in caplog.text


async def test_records_of_ended_agents_are_kept_for_the_newest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_agents, "KEEP_ENDED", 3)
    async with rig_of() as rig:
        worker = await rig.start(app)
        for number in range(5):
            await spawn(rig, f"one/{number}")
            await terminate(rig, f"one/{number}")
        await worker.leave()
        assert sorted(await rig.broker.records("0")) == ["one/2", "one/3", "one/4"]
        records = {
            f"one/{9 - number}": encode(AgentRecord("one", str(9 - number), "stopped", since_ms=number))
            for number in (2, 0, 1)
        }
        one = await rig.start(app)
        rig.server.namespace("tests").shard("0").records.clear()
        fleet = one.fleet

        async def ours() -> bool:
            return "0" in one.consumer.owned

        await rig.until(ours)
        shard = one.consumer.owned["0"]
        await fleet.opened(shard, Inheritance(records, {}, {}))
        await spawn(rig, "one/new")
        await terminate(rig, "one/new")
        await one.leave()
        # The oldest goes, whatever the order in which the server told the records.
        assert list(fleet._shards) == []
        assert fleet.count() == 0


async def test_what_a_busy_agent_handles_is_counted_while_it_is_busy() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("one/1")
        await rig.client.send_many([*(("one/1", "note", number) for number in range(200)), ("one/1", "wait", 0)])
        await log.begun.wait()
        measured = worker.recorder.take()
        assert measured is not None
        assert measured.counts["handled"]["one"] >= 128
        log.gate.set()
        await rig.settled()
        await rig.until(lambda: asyncio.sleep(0, not worker.fleet.awake))
        rest = worker.recorder.take()
        assert rest is not None
        assert measured.counts["handled"]["one"] + rest.counts["handled"]["one"] == 201
