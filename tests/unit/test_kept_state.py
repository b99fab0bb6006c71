"""Kept states: after any crash a state is the effect of exactly the messages that the ledger says are settled."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest

from swell import Agent, App, Crash, HandlerFailed, UnknownAgent, handler
from swell.agent_state import MAX_STATE_BYTES
from swell.bus import consumer, settler
from swell.codec import decode, encode
from swell.errors import AppError, BrokerUnavailable, StartFailed
from swell.wire import Snapshot
from swell_worker import life, retrying
from tests.unit.brokers import LONG_MS, NO_WAIT, Rig, WorkerRig, rig_of

app = App("tests")
STATE = "tally/1#state"


class Tally(msgspec.Struct):
    count: int = 0
    seen: list[int] = []
    pad: str = ""


class Log:
    """What the handlers wait for, and what they do wrong."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()
        self.failures = 0
        self.turns = random.Random(0)


log = Log()


@app.agent("tally", max_attempts=3, max_restarts=1)
class Tallier(Agent):
    state: Tally

    async def started(self, args: str | None) -> None:
        if args == "starts":
            self.state.count = 100
        if args == "fails":
            raise ValueError("no")

    @handler
    async def add(self, body: int) -> int:
        self.state.count += 1
        for _ in range(log.turns.randrange(3)):
            await asyncio.sleep(0)
        self.state.seen.append(body)
        return self.state.count

    @handler
    async def look(self) -> Tally:
        return self.state

    @handler
    async def fail(self, body: str) -> None:
        """Half changes the state; fails as often as it is told to."""
        self.state.count += 1000
        self.state.seen.append(-1)
        if log.failures:
            log.failures -= 1
            raise Crash(body) if body == "crash" else ValueError(body)

    @handler
    async def wait(self) -> None:
        self.state.count += 1
        log.waiting.set()
        await log.gate.wait()

    @handler
    async def grow(self, body: int) -> None:
        self.state.pad = "x" * body

    @handler
    async def spoil(self, body: str) -> None:
        if body == "class":
            self.state = {"count": 1}  # type: ignore[assignment]
        else:
            self.state.count = "many"  # type: ignore[assignment]

    @handler
    async def unsendable(self) -> object:
        self.state.count += 1000
        return object()


@app.agent("plain")
class Plain(Agent):
    @handler
    async def note(self, body: int) -> int:
        return body


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    monkeypatch.setattr(life, "RESTART", NO_WAIT)
    monkeypatch.setattr(settler, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(consumer, "RECONNECT", NO_WAIT)
    global log
    log = Log()


async def look(rig: Rig, id: str = "tally/1") -> Tally:
    return await rig.client.ask(id, "look", None, Tally)


async def stored(rig: Rig) -> Tally | None:
    record = await rig.broker.record("0", STATE)
    return None if record is None else msgspec.msgpack.decode(decode(record, Snapshot).state, type=Tally)


async def kill(rig: Rig, worker: WorkerRig) -> None:
    """End a worker without a word, and let its lease lapse; the client's replies lapse with it."""
    await worker.die()
    rig.clock.pass_ms(LONG_MS + 1)


async def test_a_state_is_there_before_started_and_outlives_hand_over_kill_and_crash() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.client.request("0", "tally/1", "$spawn", {"plan": "p", "args": "starts"}, 10)
        assert await rig.client.ask("tally/1", "add", 1) == 101
        await first.leave()
        second = await rig.start(app)
        # `started` ran again and set the count anew; what it leaves alone is as it was.
        assert await look(rig) == Tally(100, [1])
        assert await rig.client.ask("tally/1", "add", 2) == 101
        log.failures = 1
        await rig.client.ask("tally/1", "fail", "crash")
        assert await stored(rig) == Tally(1100, [1, 2, -1])
        await rig.settled()
        await kill(rig, second)
        await rig.start(app)
        await rig.client.send("tally/1", "add", 3)
        await rig.settled()
        assert await stored(rig) == Tally(101, [1, 2, -1, 3])


async def test_a_snapshot_carries_the_epoch_of_its_writer() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("tally/1")
        await rig.client.ask("tally/1", "add", 1)
        record = await rig.broker.record("0", STATE)
        assert record is not None
        snapshot = decode(record, Snapshot)
        assert snapshot.epoch == worker.consumer.owned["0"].lease.epoch
        assert snapshot.at_ms > 0


async def test_each_agent_has_a_state_of_its_own() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("tally/1", "tally/2")
        await rig.client.ask("tally/1", "add", 1)
        assert (await look(rig, "tally/2"), await look(rig)) == (Tally(), Tally(1, [1]))


async def test_a_failed_attempt_leaves_no_trace_in_the_state() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("tally/1")
        await rig.client.ask("tally/1", "add", 1)
        log.failures = 2
        await rig.client.ask("tally/1", "fail", "twice")
        assert await look(rig) == Tally(1001, [1, -1])


@pytest.mark.parametrize("body", ["plainly", "crash"])
async def test_a_message_that_failed_for_good_leaves_no_trace_in_the_state(body: str) -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("tally/1")
        await rig.client.ask("tally/1", "add", 1)
        log.failures = 1 if body == "crash" else 3
        if body == "crash":
            await rig.client.ask("tally/1", "fail", body)
            assert await look(rig) == Tally(1001, [1, -1])
            return
        with pytest.raises(HandlerFailed):
            await rig.client.ask("tally/1", "fail", body)
        assert await look(rig) == Tally(1, [1])
        assert await stored(rig) == Tally(1, [1])


async def test_a_result_that_cannot_be_sent_leaves_no_trace_in_the_state() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("tally/1")
        await rig.client.ask("tally/1", "add", 1)
        with pytest.raises(HandlerFailed, match="cannot be sent"):
            await rig.client.ask("tally/1", "unsendable")
        assert await look(rig) == Tally(1, [1])
        assert await stored(rig) == Tally(1, [1])


async def test_while_a_handler_runs_the_last_good_state_counts() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.spawn("tally/1")
        await rig.client.ask("tally/1", "add", 1)
        await rig.client.send("tally/1", "wait")
        await log.waiting.wait()
        assert await stored(rig) == Tally(1, [1])
        await kill(rig, first)
        log.gate.set()
        await rig.start(app)
        await rig.settled()
        assert await stored(rig) == Tally(2, [1])


@pytest.mark.parametrize(
    ("name", "body", "text"),
    [
        ("grow", MAX_STATE_BYTES, "self.state has .* bytes; at most 262144 are kept"),
        ("spoil", "class", "self.state must be a Tally, not dict"),
        ("spoil", "field", r"self.state does not fit Tally: .*\$.count"),
    ],
)
async def test_a_state_that_cannot_be_kept_is_a_failed_attempt(name: str, body: Any, text: str) -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("tally/1")
        await rig.client.ask("tally/1", "add", 1)
        with pytest.raises(HandlerFailed, match=text) as failed:
            await rig.client.ask("tally/1", name, body)
        assert failed.value.detail["attempts"] == 3
        assert await look(rig) == Tally(1, [1])


async def test_termination_deletes_the_snapshot_and_the_id_begins_afresh() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("tally/1")
        await rig.client.ask("tally/1", "add", 1)
        await rig.client.request("0", "tally/1", "$terminate", None, 10)
        assert await rig.broker.record("0", STATE) is None
        await rig.spawn("tally/1")
        assert await look(rig) == Tally()


async def test_an_agent_that_failed_and_is_spawned_again_begins_afresh() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.spawn("tally/1")
        await rig.client.ask("tally/1", "add", 1)
        log.failures = 9
        with pytest.raises(HandlerFailed):
            await rig.client.ask("tally/1", "fail", "crash")
        assert await stored(rig) == Tally(1, [1])
        await first.leave()
        log.failures = 0
        await rig.start(app)
        with pytest.raises(StartFailed):
            await rig.client.request("0", "tally/1", "$spawn", {"plan": "p", "args": "fails"}, 10)
        assert await rig.broker.record("0", STATE) is None
        await rig.spawn("tally/1")
        assert await look(rig) == Tally()


async def test_a_snapshot_that_cannot_be_read_fails_the_agent_names_the_field_and_is_left_alone() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.spawn("tally/1")
        await first.leave()
        spoilt = encode(Snapshot(1, 1, encode({"count": "many"})))
        rig.server.namespace("tests").shard("0").records[STATE] = spoilt
        await rig.start(app)
        with pytest.raises(UnknownAgent, match=r"its kept state cannot be read any more: .*\$.count"):
            await rig.client.ask("tally/1", "add", 1)
        assert await rig.broker.record("0", STATE) == spoilt


async def test_agents_without_a_state_write_nothing_and_lists_show_agents_only() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("tally/1", "plain/1")
        await rig.client.ask("plain/1", "note", 1)
        await rig.client.ask("tally/1", "add", 1)
        assert set(await rig.broker.records("0")) == {"tally/1", "plain/1", STATE}
        assert [one.id for one in await rig.client.agents()] == ["plain/1", "tally/1"]
        calls = app.types["plain"].calls["note"]
        assert calls[0] is Plain.note
        assert not worker.consumer.owned["0"].whole


async def test_a_snapshot_is_written_with_all_that_ended_however_much_and_however_young() -> None:
    """Many entries, one message each and half of some: all that made the state is settled in the same call."""
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("tally/1", "plain/1")
        await rig.client.ask("tally/1", "add", -1)
        worker.broker.gates["settle"] = asyncio.Event()
        shard = worker.consumer.owned["0"]
        await rig.client.send("tally/1", "add", 0)
        for number in range(1, 700):
            await rig.client.send("tally/1", "add", number)
        await rig.client.send_many([("tally/1", "add", 700), ("tally/1", "wait", None), ("tally/1", "add", 701)])
        await log.waiting.wait()
        assert len(shard.done) > settler.CALL_ENTRIES
        worker.broker.gates.pop("settle").set()
        await rig.until(lambda: _tallied(rig))
        calls = [call[0] for call in worker.broker.settled if STATE in call[0].records]
        (outcomes,) = [len(call.outcomes) for call in calls if len(call.outcomes) > 1]
        assert outcomes >= 700
        await kill(rig, worker)
        log.gate.set()
        await rig.start(app)
        await rig.settled()
        tally = await stored(rig)
        assert tally is not None
        assert tally.seen == [-1, *range(702)]
        assert tally.count == 1 + 702 + 1


async def _tallied(rig: Rig) -> bool:
    """Whether a first part of the many is in the snapshot."""
    tally = await stored(rig)
    return tally is not None and tally.count >= 700


@pytest.mark.parametrize("seed", range(30))
async def test_after_any_kill_the_state_is_the_effect_of_exactly_what_is_settled(seed: int) -> None:
    chance = random.Random(seed)
    log.turns = chance
    async with rig_of() as rig:
        worker = await rig.start(app, mailbox=chance.choice([2, 1024]))
        await rig.spawn("tally/1")
        sent = 0
        for _ in range(4):
            log.failures = chance.randrange(3)
            worker.broker.faults["settle"] = [
                chance.choice([None, None, "lost", BrokerUnavailable("away")]) for _ in range(20)
            ]
            for _ in range(chance.randrange(1, 12)):
                size = chance.randrange(1, 40)
                await rig.client.send_many(("tally/1", "add", number) for number in range(sent, sent + size))
                sent += size
                for _ in range(chance.randrange(8)):
                    await asyncio.sleep(0)
            await kill(rig, worker)
            ledger, tally = await rig.broker.ledger("0"), await stored(rig)
            # The ledger counts the $spawn too.
            assert (tally.count if tally is not None else 0) == max(0, ledger.acked - 1)
            assert tally is None or tally.seen == list(range(tally.count))
            worker = await rig.start(app, mailbox=chance.choice([2, 1024]))
        await rig.settled()
        assert await stored(rig) == Tally(sent, list(range(sent)))


class Needy(msgspec.Struct):
    name: str
    size: int
    note: str = ""


class Odd(msgspec.Struct):
    thing: object = msgspec.UNSET


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (Needy, "give name, size of Needy a default"),
        (
            dict[str, int],
            r"Made.state is declared as dict\[str, int\]; declare it as a class derived from msgspec.Struct",
        ),
        ("Missing", "its annotation cannot be resolved: .*Missing"),
        (type("Bad", (msgspec.Struct,), {"__annotations__": {"f": asyncio.Event}, "f": None}), "Bad cannot be kept"),
    ],
)
def test_a_state_that_cannot_work_is_refused_where_it_is_declared(declared: Any, text: str) -> None:
    made = type("Made", (Agent,), {"__annotations__": {"state": declared}})
    with pytest.raises(AppError, match=text):
        App("x").agent("y")(made)


def test_a_state_may_be_declared_by_a_class_that_it_derives_from() -> None:
    other = App("other")
    other.agent("more")(type("More", (Tallier,), {}))
    kept = other.types["more"].state
    assert kept is not None
    assert kept.struct is Tally
