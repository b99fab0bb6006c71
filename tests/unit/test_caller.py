"""Calls and their answers: those that come late, twice, malformed or never harm no other call."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from swell.bus import caller as module
from swell.bus.caller import REPLIES_TTL_MS, Caller
from swell.bus.memory import MemoryServer
from swell.clock import SYSTEM, Clock
from swell.codec import decode, encode, raw
from swell.errors import BrokerUnavailable, CallError, UnknownTask, WrongBody
from swell.wire import DONE, FAILED, PROGRESS, Failure, Reply
from tests.unit.brokers import NO_WAIT, FaultyBroker, MovableClock


@asynccontextmanager
async def calling(clock: Clock = SYSTEM) -> AsyncIterator[tuple[Caller, FaultyBroker]]:
    broker = FaultyBroker(MemoryServer(clock))
    await broker.open(1)
    caller = Caller(broker, "me")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(caller.run())
        await caller.opened(5)
        yield caller, broker
        running.cancel()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(module, "BLOCK_MS", 20)


async def answer(broker: FaultyBroker, *replies: Reply) -> None:
    await broker.settle([], {"me": encode(list(replies))})


async def test_answers_find_their_calls_in_whatever_order_they_come() -> None:
    async with calling() as (caller, broker):
        calls = [caller.begin() for _ in range(50)]
        await answer(broker, *(Reply(call.number, DONE, raw(call.number * 2)) for call in reversed(calls)))
        for call in calls:
            assert decode(await call.future, int) == call.number * 2


async def test_answers_survive_a_server_that_goes_away_and_lost_replies() -> None:
    async with calling() as (caller, broker):
        broker.faults["read_replies"] = ["lost", BrokerUnavailable("away"), "lost", None, "lost"]
        for number in range(5):
            call = caller.begin()
            await answer(broker, Reply(call.number, DONE, raw(number)))
            assert decode(await call.future, int) == number


async def test_a_stream_that_the_server_has_lost_is_made_anew_though_its_ids_begin_lower() -> None:
    clock = MovableClock()
    async with calling(clock) as (caller, broker):
        first = caller.begin()
        await answer(broker, Reply(first.number, DONE, raw(1)))
        await first.future
        gate = broker.gates["open_replies"] = asyncio.Event()
        clock.pass_ms(REPLIES_TTL_MS + 1)
        lost = caller.begin()
        await broker.called("open_replies", 2)
        # Whoever hears of it asks again at once, and there must be a stream then for the answer.
        assert not lost.future.done()
        clock.pass_ms(-3_600_000)
        gate.set()
        with pytest.raises(BrokerUnavailable, match="lost the answer"):
            await lost.future
        second = caller.begin()
        await answer(broker, Reply(second.number, DONE, raw(2)))
        assert decode(await second.future, int) == 2


async def test_a_stream_that_was_lost_while_the_server_was_away_is_noticed_when_it_is_made_anew() -> None:
    clock = MovableClock()
    async with calling(clock) as (caller, broker):
        lost = caller.begin()
        gate = broker.gates["read_replies"] = asyncio.Event()
        await broker.called("read_replies", broker.calls["read_replies"] + 1)
        broker.faults["read_replies"] = [BrokerUnavailable("away")]
        clock.pass_ms(REPLIES_TTL_MS + 1)
        gate.set()
        with pytest.raises(BrokerUnavailable, match="lost the answer"):
            await lost.future


async def test_second_late_and_unknown_answers_and_bytes_that_are_none_are_passed_over() -> None:
    async with calling() as (caller, broker):
        first, ended, last = caller.begin(), caller.begin(), caller.begin()
        caller.end(ended)
        await broker.settle([], {"me": b"\xff"})
        await answer(broker, Reply(first.number, DONE, raw(1)), Reply(first.number, FAILED, raw(None)))
        await answer(broker, Reply(ended.number, DONE, raw(2)), Reply(999, DONE, raw(3)))
        await answer(broker, Reply(last.number, DONE, raw(4)))
        assert decode(await first.future, int) == 1
        assert decode(await last.future, int) == 4
        assert not ended.future.done()


async def test_progress_is_heard_until_the_answer() -> None:
    async with calling() as (caller, broker):
        heard: list[int] = []
        call = caller.begin(lambda body: heard.append(decode(body, int)))
        await answer(broker, *(Reply(call.number, PROGRESS, raw(number)) for number in range(3)))
        await answer(broker, Reply(call.number, DONE, raw("end")), Reply(call.number, PROGRESS, raw(9)))
        assert decode(await call.future, str) == "end"
        assert heard == [0, 1, 2]


async def test_a_failure_comes_out_as_the_error_of_its_kind() -> None:
    async with calling() as (caller, broker):
        call = caller.begin()
        failure = Failure("wrong_body", "does not fit", "one/1", {"field": "$.a", "agent": "x", "message": "y"})
        await answer(broker, Reply(call.number, FAILED, raw(failure)))
        with pytest.raises(WrongBody, match="does not fit") as raised:
            await call.future
        assert (raised.value.agent, raised.value.detail["field"]) == ("one/1", "$.a")


@pytest.mark.parametrize("body", [None, {"kind": "of another release", "message": "m"}])
async def test_a_failure_that_cannot_be_read_is_an_error_all_the_same(body: Any) -> None:
    async with calling() as (caller, broker):
        call = caller.begin()
        await answer(broker, Reply(call.number, FAILED, raw(body)))
        with pytest.raises(CallError):
            await call.future
        other = caller.begin()
        await answer(broker, Reply(other.number, DONE, raw(1)))
        await other.future


async def test_a_failure_that_nobody_awaits_is_no_error_unheard() -> None:
    unheard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    async with calling() as (caller, broker):
        expired, failed, last = caller.begin(), caller.begin(), caller.begin()
        expired.expire()
        await answer(broker, Reply(failed.number, FAILED, raw(Failure("unknown_agent", "gone"))))
        await answer(broker, Reply(last.number, DONE, raw(1)))
        await last.future
        caller.end(expired)
        del expired, failed
        gc.collect()
    assert unheard == []


async def test_what_went_to_several_inboxes_is_unknown_when_each_has_said_so_however_often_one_does() -> None:
    def unknown(call: int, inbox: str) -> Reply:
        return Reply(call, FAILED, raw(Failure("unknown_task", "there is no such task", detail={"inbox": inbox})))

    async with calling() as (caller, broker):
        asked, found, other = (caller.begin(inboxes=["0", "0.critical"]) for _ in range(3))
        for call in (asked, found):
            await answer(broker, unknown(call.number, "0.critical"), unknown(call.number, "0.critical"))
        await answer(broker, Reply(found.number, DONE, raw(1)))
        assert decode(await found.future, int) == 1
        assert not asked.future.done()
        await answer(broker, unknown(asked.number, "0"))
        with pytest.raises(UnknownTask):
            await asked.future
        await answer(broker, Reply(other.number, FAILED, raw(Failure("wrong_body", "another"))))
        with pytest.raises(WrongBody):
            await other.future
