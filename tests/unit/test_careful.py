"""Messages that kill their process: found among their neighbours, given up alone, in order, without harming anybody."""

from __future__ import annotations

import asyncio
import time

import pytest

from swell import Agent, App, Poison, UnknownAgent, handler
from swell.bus import careful, consumer, settler
from swell.bus.careful import ALONE_DEATHS, CLEARED_S
from swell_worker import retrying
from tests.unit.brokers import LONG_MS, MAX_DELIVERIES, NO_WAIT, Rig, WorkerRig, rig_of

app = App("tests")
#: Ten of them are shorter than the life of a reply stream that is not renewed.
LEASE_MS = 5000


class Log:
    """What the agents did in all their processes, and whether one of them would have died now."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, int]] = []
        self.died = asyncio.Event()
        self.gate = asyncio.Event()


log = Log()


async def die() -> None:
    """What a handler that kills its process does; the test sees it and ends the process."""
    log.died.set()
    await asyncio.Event().wait()


@app.agent("one", max_attempts=1, timeout=None)
class One(Agent):
    async def started(self, args: str | None) -> None:
        if args == "kill":
            await die()

    @handler
    async def note(self, body: int) -> None:
        log.handled.append((self.key, body))

    @handler
    async def kill(self) -> None:
        await die()

    @handler
    async def wait(self, body: int) -> None:
        await log.gate.wait()
        log.handled.append((self.key, body))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (settler, consumer, careful):
        monkeypatch.setattr(module, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    global log
    log = Log()


async def live_and_die(rig: Rig, lives: int) -> int:
    """Let workers live one after another as long as one dies of what it handles; returns how many did."""
    for deaths in range(lives):
        worker = await rig.start(app, lease_ms=LEASE_MS)
        if not await died(rig, worker):
            return deaths
        rig.clock.pass_ms(LEASE_MS + 1)
    raise AssertionError(f"{lives} workers died")


async def died(rig: Rig, worker: WorkerRig) -> bool:
    """Whether a worker dies of what it handles; False once all is settled and it lives."""
    dying = asyncio.ensure_future(log.died.wait())
    settled = asyncio.ensure_future(rig.settled())
    await asyncio.wait({dying, settled}, return_when=asyncio.FIRST_COMPLETED)
    if settled.done():
        dying.cancel()
        settled.result()
        return False
    settled.cancel()
    log.died.clear()
    await worker.die()
    return True


async def born(rig: Rig, *ids: str) -> None:
    worker = await rig.start(app)
    await rig.spawn(*ids)
    await worker.leave()


async def appended(rig: Rig, messages: int) -> None:
    async def there() -> bool:
        return (await rig.broker.ledger("0")).sent == messages

    await rig.until(there)


async def suspected(rig: Rig) -> None:
    """Have so many owners die with what is in the stream that it is suspect, whoever may be to blame."""
    for _ in range(MAX_DELIVERIES):
        worker = await rig.start(app)
        await worker.broker.called("read", 2)
        await worker.die()
        rig.clock.pass_ms(LONG_MS + 1)


async def test_only_the_message_that_kills_is_given_up_and_its_neighbours_are_handled_once_and_in_order() -> None:
    async with rig_of(shards=2) as rig:
        ids = [f"one/{n}" for n in range(4)]
        await born(rig, *ids)
        batch = [(id, "note", n) for n in range(10) for id in ids]
        await rig.client.send_many([*batch[:15], (ids[0], "kill", None), *batch[15:]])
        await rig.client.send_many([(id, "note", 10) for id in ids])

        assert await live_and_die(rig, 10) == MAX_DELIVERIES + ALONE_DEATHS

        (letter,) = await rig.letters()
        assert (letter.kind, letter.to, letter.name) == ("poison", ids[0], "kill")
        assert letter.reason == "2 processes died while they handled nothing else of its entry"
        for id in ids:
            of_agent = [body for key, body in log.handled if id == f"one/{key}"]
            # Its owners die with what they did not record, at most once each before the entry is suspect.
            assert list(dict.fromkeys(of_agent)) == list(range(11))
            assert all(of_agent.count(body) <= MAX_DELIVERIES + 1 for body in range(11))


async def test_an_asker_of_the_message_that_kills_is_told() -> None:
    async with rig_of() as rig:
        await born(rig, "one/1")
        asking = asyncio.ensure_future(rig.client.ask("one/1", "kill"))
        await appended(rig, 2)
        await live_and_die(rig, 10)
        with pytest.raises(Poison, match="processes died"):
            await asking


async def test_two_messages_that_kill_in_one_batch_are_both_found() -> None:
    async with rig_of() as rig:
        await born(rig, "one/1", "one/2")
        await rig.client.send_many(
            [("one/1", "note", 1), ("one/1", "kill", None), ("one/2", "note", 1), ("one/2", "kill", None)]
        )
        assert await live_and_die(rig, 12) == MAX_DELIVERIES + 2 * ALONE_DEATHS
        assert sorted((letter.kind, letter.to) for letter in await rig.letters()) == [
            ("poison", "one/1"),
            ("poison", "one/2"),
        ]
        assert sorted(set(log.handled)) == [("1", 1), ("2", 1)]


async def test_an_agent_that_kills_its_process_at_its_birth_is_failed_with_the_reason() -> None:
    async with rig_of() as rig:
        spawning = asyncio.ensure_future(
            rig.client.request("0", "one/1", "$spawn", {"plan": "p", "args": "kill"}, 10.0)
        )
        await appended(rig, 1)
        await live_and_die(rig, 10)
        with pytest.raises(Poison):
            await spawning
        record = await rig.record("one/1")
        assert record is not None
        assert (record.state, record.reason[:18]) == ("failed", "2 processes died w")
        with pytest.raises(UnknownAgent, match="is failed: 2 processes died"):
            await rig.client.ask("one/1", "note", 1)


async def test_what_is_behind_a_suspect_entry_waits_for_it_and_other_shards_go_on() -> None:
    async with rig_of(shards=2) as rig:
        here, there = "one/1", next(id for id in map("one/{}".format, range(2, 99)) if rig.client.shard(id) != "1")
        if rig.client.shard(here) == rig.client.shard(there):
            here = next(id for id in map("one/{}".format, range(2, 99)) if rig.client.shard(id) == "1")
        await born(rig, here, there)
        await rig.client.send(here, "wait", 0)
        await suspected(rig)
        await rig.client.send_many([(here, "note", n) for n in range(1, 600)])
        await rig.start(app)
        await rig.client.send(there, "note", 7)

        async def went_on() -> bool:
            return (there.removeprefix("one/"), 7) in log.handled

        await rig.until(went_on)
        assert [body for key, body in log.handled if f"one/{key}" == here] == []
        log.gate.set()
        await rig.settled()
        assert [body for key, body in log.handled if f"one/{key}" == here] == list(range(600))
        assert await rig.letters() == []


async def test_a_polite_hand_over_is_not_held_against_what_was_tried_and_had_not_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(careful, "CLEARED_S", 0.0)
    monkeypatch.setattr(careful, "ALONE_DEATHS", 1)
    async with rig_of() as rig:
        await born(rig, "one/1")
        await rig.client.send_many([("one/1", "wait", 0), ("one/1", "note", 1)])
        await suspected(rig)
        worker = await rig.start(app)
        await worker.broker.called("trial", 2)
        log.handled.clear()
        worker.stop.set()

        async def stopping() -> bool:
            return not worker.consumer.owned["0"].reading

        await rig.until(stopping)
        log.gate.set()
        await worker.leave()
        assert log.handled == [("1", 0)]
        await rig.start(app)
        await rig.settled()
        assert log.handled == [("1", 0), ("1", 1)]
        assert await rig.letters() == []


async def test_a_suspect_that_neither_ends_nor_kills_does_not_hold_up_the_next_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(careful, "CLEARED_S", 0.0)
    async with rig_of() as rig:
        await born(rig, "one/1", "one/2")
        await rig.client.send_many([("one/1", "wait", 0), ("one/2", "note", 2)])
        await suspected(rig)
        log.handled.clear()
        await rig.start(app)

        async def went_on() -> bool:
            return ("2", 2) in log.handled

        await rig.until(went_on)
        log.gate.set()
        await rig.settled()
        assert log.handled == [("2", 2), ("1", 0)]


async def test_messages_of_a_held_agent_are_no_trial_however_many_owners_die() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app, lease_ms=LEASE_MS)
        await rig.spawn("one/held", "one/free")
        await rig.client.pause("one/held")
        await rig.client.send_many(("one/held", "note", number) for number in range(5))
        for life in range(MAX_DELIVERIES + 2 * ALONE_DEATHS):
            await rig.client.ask("one/free", "note", life)
            await worker.die()
            rig.clock.pass_ms(LEASE_MS + 1)
            worker = await rig.start(app, lease_ms=LEASE_MS)
        began = time.monotonic()
        await rig.client.ask("one/free", "note", 100)
        assert time.monotonic() - began < CLEARED_S, "nobody waits for what is not begun"
        assert "held" not in {key for key, _ in log.handled}
        await rig.client.resume("one/held")
        await rig.settled()
        assert [body for key, body in log.handled if key == "held"] == list(range(5))
        assert await rig.letters() == []
