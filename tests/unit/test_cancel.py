"""Cancelled messages: not begun, being handled, between attempts, parked, for later; and calls whose caller gave up."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from msgspec import Struct

from swell import Agent, App, Cancelled, Crash, WrongBody, handler
from swell.priority import PRIORITIES
from swell.wire import CANCEL, TO_SHARD
from swell_worker import cell, retrying
from tests.unit.brokers import NO_WAIT, Rig, rig_of

app = App("tests")
log: list[Any] = []
gate = asyncio.Event()
running = asyncio.Event()


class Kept(Struct):
    count: int = 0


@app.agent("clerk", timeout=None, max_attempts=3)
class Clerk(Agent):
    state: Kept

    @handler
    async def note(self, body: Any) -> Any:
        log.append(body)
        return body

    @handler
    async def wait(self, body: Any = None) -> Any:
        """Waits, and says how it ended."""
        self.state.count += 1
        running.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        return body

    @handler
    async def stubborn(self) -> str:
        """Takes no notice of its cancellation."""
        running.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            log.append("ignored")
        return "done all the same"

    @handler
    async def convert(self) -> None:
        """Makes an error of its own of its cancellation."""
        running.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            raise ValueError("mine") from None

    @handler
    async def fail(self) -> None:
        log.append("failed")
        running.set()
        raise ValueError("on purpose")

    @handler
    async def crash(self) -> None:
        raise Crash("gone")

    @handler
    async def count(self) -> int:
        return self.state.count


@pytest.fixture(autouse=True)
def fresh() -> None:
    global gate, running
    gate, running = asyncio.Event(), asyncio.Event()
    log.clear()


async def started(rig: Rig, **options: Any) -> Any:
    worker = await rig.start(app, **options)
    await rig.spawn("clerk/1")
    return worker


async def account(rig: Rig) -> tuple[int, int]:
    """How many messages were expired, and how many are dead."""
    ledger = await rig.broker.ledger("0")
    return ledger.expired, ledger.dead


async def test_a_message_that_was_not_begun_is_not_handled() -> None:
    async with rig_of() as rig:
        worker = await started(rig)
        await rig.client.send("clerk/1", "wait")
        for number in range(3):
            await rig.client.send("clerk/1", "note", number, id=f"n{number}")
        assert await rig.client.cancel_message("clerk/1", "n1")
        assert not await rig.client.cancel_message("clerk/1", "n1")
        assert not await rig.client.cancel_message("clerk/1", "other")
        gate.set()
        await rig.settled()
        assert log == [0, 2]
        assert await account(rig) == (1, 0)
        assert worker.recorder.counter("cancelled", "clerk").n == 1
        assert not await rig.client.cancel_message("clerk/1", "n2"), "it was handled"


async def test_a_handler_that_runs_is_cancelled_its_state_put_back_and_the_next_message_handled() -> None:
    async with rig_of() as rig:
        worker = await started(rig)
        asking = asyncio.ensure_future(rig.client.ask("clerk/1", "wait", id="slow"))
        await running.wait()
        assert await rig.client.cancel_message("clerk/1", "slow")
        with pytest.raises(Cancelled, match="'wait' of clerk/1 was cancelled"):
            await asking
        assert await rig.client.ask("clerk/1", "count") == 0
        await rig.settled()
        assert log == ["cancelled"]
        assert await account(rig) == (1, 0)
        assert worker.recorder.counter("failed_attempts", "clerk").n == 0


async def test_a_caller_that_gives_up_cancels_the_handler() -> None:
    async with rig_of() as rig:
        await started(rig)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await rig.client.ask("clerk/1", "wait")
        await rig.settled()
        assert log == ["cancelled"]
        assert await account(rig) == (1, 0)
        assert await rig.client.ask("clerk/1", "note", "behind") == "behind"


async def test_a_caller_that_gives_up_takes_back_what_was_not_begun_and_nothing_else() -> None:
    async with rig_of() as rig:
        await started(rig)
        await rig.client.send("clerk/1", "wait")
        await running.wait()
        asking = [asyncio.ensure_future(rig.client.ask("clerk/1", "note", number)) for number in range(50)]

        async def appended() -> bool:
            return (await rig.broker.ledger("0")).depth == 51

        await rig.until(appended)
        for number in range(0, 50, 2):
            asking[number].cancel()
        # Behind the cancellations, so that they were carried out when it is answered.
        assert not await rig.client.cancel_message("clerk/1", "none")
        gate.set()
        await rig.settled()
        assert log == list(range(1, 50, 2))
        assert [await asking[number] for number in range(1, 50, 2)] == log
        assert await account(rig) == (25, 0)


async def test_one_that_takes_no_notice_is_acked_and_one_that_makes_an_error_of_it_is_cancelled() -> None:
    async with rig_of() as rig:
        await started(rig)
        asking = asyncio.ensure_future(rig.client.ask("clerk/1", "stubborn", id="a"))
        await running.wait()
        assert await rig.client.cancel_message("clerk/1", "a")
        assert await asking == "done all the same"
        running.clear()
        asking = asyncio.ensure_future(rig.client.ask("clerk/1", "convert", id="b"))
        await running.wait()
        assert await rig.client.cancel_message("clerk/1", "b")
        with pytest.raises(Cancelled):
            await asking
        assert await rig.client.ask("clerk/1", "note", "behind") == "behind"
        assert await account(rig) == (1, 0)


async def test_between_two_attempts_it_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY", type(NO_WAIT)(3600.0, 3600.0))
    async with rig_of() as rig:
        await started(rig)
        await rig.client.send("clerk/1", "fail", id="f")
        await running.wait()
        assert await rig.client.cancel_message("clerk/1", "f")
        assert await rig.client.ask("clerk/1", "note", "behind") == "behind"
        await rig.settled()
        assert log == ["failed", "behind"]
        assert await account(rig) == (1, 0)


async def test_what_is_parked_is_found_when_it_is_fetched_and_what_is_not_there_is_told_then() -> None:
    async with rig_of() as rig:
        await started(rig, mailbox=1)
        await rig.client.send("clerk/1", "wait")
        for number in range(6):
            await rig.client.send("clerk/1", "note", number, id=f"n{number}")
        asked = [asyncio.ensure_future(rig.client.cancel_message("clerk/1", id)) for id in ("n4", "n2", "none")]

        async def appended() -> bool:
            return (await rig.broker.ledger("0")).sent == 1 + 7 + 3 * len(PRIORITIES)

        await rig.until(appended)
        gate.set()
        assert await asyncio.gather(*asked) == [True, True, False]
        await rig.settled()
        assert log == [0, 1, 3, 5]
        assert await account(rig) == (2, 0)


async def test_what_was_cancelled_stays_cancelled_though_its_worker_dies_beside_a_slow_neighbour() -> None:
    async with rig_of() as rig:
        worker = await started(rig, lease_ms=1000)
        # In one entry: the first is being handled, so the entry cannot be settled whole.
        await asyncio.gather(rig.client.send("clerk/1", "wait"), rig.client.send("clerk/1", "note", "never", id="n"))
        await running.wait()
        assert await rig.client.cancel_message("clerk/1", "n")
        await worker.die()
        rig.clock.pass_ms(2000)
        gate.set()
        await rig.start(app)
        await rig.settled()
        assert "never" not in log
        assert await account(rig) == (1, 0)


async def test_a_request_for_a_parked_message_outlives_its_worker() -> None:
    async with rig_of() as rig:
        worker = await started(rig, mailbox=1, lease_ms=1000)
        await rig.client.send("clerk/1", "wait")
        await rig.client.send("clerk/1", "note", 1)
        await rig.client.send("clerk/1", "note", 2, id="two")
        asking = asyncio.ensure_future(rig.client.cancel_message("clerk/1", "two"))

        async def held() -> bool:
            agents = worker.fleet._shards.get("0")
            return agents is not None and bool(agents.cells["clerk/1"].sought)

        await rig.until(held)
        await worker.die()
        rig.clock.pass_ms(2000)
        gate.set()
        await rig.start(app)
        assert await asking
        await rig.settled()
        assert log[-1] == 1
        assert 2 not in log


async def test_a_message_for_later_is_removed_replaced_by_its_id_and_found_when_it_is_due() -> None:
    async with rig_of() as rig:
        await started(rig)
        await rig.client.send("clerk/1", "note", "old", delay=3600, id="later")
        await rig.client.send("clerk/1", "note", "new", delay=3600, id="later")
        await rig.client.send("clerk/1", "note", "other", delay=3600, id="other")
        assert await rig.client.cancel_message("clerk/1", "later")
        assert not await rig.client.cancel_message("clerk/1", "later")
        (waits,) = await rig.client.scheduled()
        assert (waits.id, waits.schedule) == ("other", False)
        await rig.client.send("clerk/1", "wait", delay=0, id="due")
        await running.wait()
        assert await rig.client.cancel_message("clerk/1", "due")
        await rig.settled()
        assert log == ["cancelled"]


async def test_a_request_to_an_agent_that_is_not_there_or_that_cannot_be_read_is_answered() -> None:
    async with rig_of() as rig:
        await started(rig)
        assert not await rig.client.cancel_message("clerk/2", "x")
        with pytest.raises(WrongBody):
            await rig.client.request("0", TO_SHARD, CANCEL, {"to": 3}, 5)
        with pytest.raises(WrongBody, match="id: 'a/b' must be"):
            await rig.client.cancel_message("clerk/1", "a/b")
        with pytest.raises(WrongBody, match="id: 'a/b' must be"):
            await rig.client.send("clerk/1", "note", id="a/b")


async def test_an_agent_that_is_started_anew_is_not_disturbed() -> None:
    async with rig_of() as rig:
        await started(rig)
        await rig.client.send("clerk/1", "crash", id="c")

        async def crashed() -> bool:
            record = await rig.record("clerk/1")
            return record is not None and bool(record.restarted_ms)

        await rig.until(crashed)
        assert await rig.client.cancel_message("clerk/1", "c")
        assert await rig.client.ask("clerk/1", "note", "behind") == "behind"
        assert await account(rig) == (1, 0)


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_cancelled_when_each_call_is_answered_or_given_up_and_the_ledger_balances(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    # Each message waits for a turn of the loop before it begins: others may cancel it just then.
    monkeypatch.setattr(cell, "TURN_NS", 0)
    gate.set()
    async with rig_of() as rig:
        await started(rig, mailbox=chance.choice([1, 3, 1024]))
        calls = [
            asyncio.ensure_future(rig.client.ask("clerk/1", chance.choice(["note", "wait"]), n)) for n in range(99)
        ]
        for _ in range(60):
            chance.choice(calls).cancel()
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await rig.settled()
        assert all(isinstance(one, asyncio.CancelledError) or one == n for n, one in enumerate(answers))
        assert (await account(rig))[1] == 0
        assert await rig.client.ask("clerk/1", "note", "behind") == "behind"
