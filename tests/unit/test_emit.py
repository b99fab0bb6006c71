"""What handlers emit takes bounded memory: they wait while too much is not written, and others run meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from swell import Agent, App, HandlerFailed, handler
from swell.bus import replies as module
from swell.bus import settler
from swell.bus.caller import Caller
from swell.bus.memory import MemoryServer
from swell.bus.replies import MOST_UNWRITTEN_BYTES, REPLIES_BYTES, REPLY_BYTES, Replies
from swell.codec import MAX_RESULT_BYTES, decode, decode_replies, encode, raw
from swell.errors import BrokerUnavailable
from swell.task import MOST_PARTS, MOST_PARTS_BYTES, Parts
from swell.testing import Fleet, fleet_test
from swell.wire import DONE, PROGRESS, Reply
from tests.unit.brokers import LONG_MS, NO_WAIT, FaultyBroker, rig_of
from tests.unit.test_caller import answer, calling
from tests.unit.test_settler import settling

PART = b"x" * 100_000
log: list[Any] = []


class Emitter(Agent):
    @handler
    async def emits(self, body: int) -> int:
        for number in range(body):
            log.append(number)
            await self.emit(PART)
        return body

    @handler
    async def counts(self, body: int) -> int:
        for number in range(body):
            await self.emit(number)
        log.append("counted")
        return body

    @handler
    async def hello(self) -> str:
        log.append("hello")
        return "hello"

    @handler
    async def last_words(self, body: int) -> None:
        try:
            for _ in range(body):
                await self.emit(PART)
        finally:
            log.append("ending")
            await self.emit("last words")
            log.append("ended")


def app_of(**options: Any) -> App:
    app = App("tests")
    app.agent("emitter", **{"timeout": None, **options})(Emitter)
    return app


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    log.clear()
    monkeypatch.setattr(settler, "RECONNECT", NO_WAIT)


async def turns(number: int = 50) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


#: Parts of 100 kB that may wait to be written: from the bound on nobody hands over another.
FULL = -(-MOST_UNWRITTEN_BYTES // (len(encode(PART)) + REPLY_BYTES))


# The line.


async def test_whoever_emits_waits_while_too_much_is_not_written_and_all_comes_once_and_in_order() -> None:
    async with settling() as b:
        await b.broker.open_replies("asker", LONG_MS)
        b.broker.gates["settle"] = asyncio.Event()
        b.broker.faults["settle"] = [
            BrokerUnavailable("away"),
            BrokerUnavailable("away"),
            None,
            BrokerUnavailable("again"),
        ]
        handed: list[tuple[int, int]] = []

        async def emitter(call: int) -> None:
            for number in range(60):
                await b.settler.replies.emit([("asker", call)], raw([number, PART]))
                handed.append((call, number))

        async with asyncio.TaskGroup() as group:
            emitters = [group.create_task(emitter(call)) for call in range(5)]
            await turns(500)
            assert len(handed) == FULL, "what waits to be written is bounded"
            assert [one.done() for one in emitters] == [True, False, False, False, False]
            b.broker.gates["settle"].set()
        b.settler.replies.add("asker", 9, DONE, raw("end"))
        await b.settler.flush()
        entries = await b.broker.read_replies("asker", "0", 0)
        told = [reply for _, payload in entries for reply in decode_replies(payload)]
        for call in range(5):
            heard = [decode(reply.body, tuple[int, bytes])[0] for reply in told if reply.call == call]
            assert heard == list(range(60))
        assert told[-1].status == DONE


async def test_parts_that_wait_are_encoded_once_and_each_call_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def encoded(value: Any) -> bytes:
        data = encode(value)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(module, "encode", encoded)
    async with settling() as b:
        for process in ("one", "two"):
            await b.broker.open_replies(process, LONG_MS)
        for number in range(400):  # Answers wait for nobody, however many there are.
            b.settler.replies.add("one" if number % 2 else "two", number, DONE, raw(PART))
        await b.settler.flush()
        told = [await b.broker.read_replies(process, "0", 0) for process in ("one", "two")]
    calls = [reply.call for of_process in told for _, payload in of_process for reply in decode_replies(payload)]
    assert sorted(calls) == list(range(400))
    assert sum(sizes) < 2 * 400 * (len(PART) + 100), "each reply is encoded twice at most"
    assert sizes[2:] == [size for size in sizes[2:] if size <= REPLIES_BYTES]
    assert b.broker.calls["settle"] >= 400 * len(PART) // REPLIES_BYTES


async def test_whoever_is_cancelled_in_the_line_leaves_it_and_its_part_is_not_sent() -> None:
    async with settling() as b:
        await b.broker.open_replies("asker", LONG_MS)
        b.broker.gates["settle"] = asyncio.Event()
        parts = b.settler.replies
        for _ in range(FULL):
            await parts.emit([("asker", 0)], raw(PART))
        waiting = [asyncio.ensure_future(parts.emit([("asker", call)], raw(call))) for call in (1, 2, 3)]
        await turns()
        waiting[0].cancel()
        waiting[1].cancel()
        await turns()
        assert len(parts._line) == 1, "nothing is left of those that were cancelled"
        b.broker.gates["settle"].set()
        await waiting[2]
        await b.settler.flush()
        told = [one for _, data in await b.broker.read_replies("asker", "0", 0) for one in decode_replies(data)]
        assert [(one.call, one.status) for one in told] == [(0, PROGRESS)] * FULL + [(3, PROGRESS)]


async def test_whoever_is_cancelled_just_when_there_is_room_sends_nothing() -> None:
    parts = Replies(asyncio.Event())
    for _ in range(FULL):
        await parts.emit([("asker", 0)], raw(PART))
    waiting = [asyncio.ensure_future(parts.emit([("asker", call)], raw(call))) for call in (1, 2)]
    await turns()
    parts.take()
    assert parts.next_call()
    waiting[0].cancel()
    while parts.next_call():
        parts.written()
    parts.written()
    await turns()
    parts.take()
    assert [reply.call for reply in decode_replies(parts.next_call()["asker"])] == [2]
    assert [one.cancelled() for one in waiting] == [True, False]


async def test_nobody_hangs_in_the_line_when_nothing_is_written_any_more() -> None:
    async with asyncio.timeout(10), settling() as b:
        b.broker.gates["settle"] = asyncio.Event()
        parts = b.settler.replies
        for _ in range(FULL):
            await parts.emit([("asker", 0)], raw(PART))
        waiting = asyncio.ensure_future(parts.emit([("asker", 1)], raw(PART)))
        await turns()
        assert not waiting.done()
    async with asyncio.timeout(10):
        await waiting
        await parts.emit([("asker", 2)], raw(PART))


# Handlers.


async def test_a_handler_that_emits_while_the_server_is_away_is_held_and_goes_on_when_it_is_back() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app_of())
        await rig.spawn("emitter/a", "emitter/b")
        task = await rig.client.stream("emitter/a", "emits", 400)
        gate = worker.broker.gates["settle"] = asyncio.Event()
        await rig.until(lambda: _done(len(log) > 20))
        for _ in range(20):
            await asyncio.sleep(0.01)
        held = len(log)
        assert held < 2 * FULL + 20
        heard = asyncio.ensure_future(_count(task))
        gate.set()
        assert await task.result(int) == 400
        assert await heard == 400


async def test_a_handler_that_waits_to_emit_is_cancelled_at_its_time_limit() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app_of(max_attempts=1, timeout=1000))
        await rig.spawn("emitter/a")
        gate = worker.broker.gates["settle"] = asyncio.Event()
        asked = asyncio.ensure_future(rig.client.ask("emitter/a", "emits", 1000))
        await rig.until(lambda: _done(bool(worker.consumer.settler.replies._line)))
        (cell,) = worker.fleet.awake
        cell.time_out(0.0)
        await rig.until(lambda: _done(not worker.consumer.settler.replies._line))
        gate.set()
        with pytest.raises(HandlerFailed, match="ran longer than 1000 s"):
            await asked
        assert await rig.client.ask("emitter/a", "hello") == "hello"
        await rig.settled()


async def test_a_hand_over_waits_for_a_handler_that_emits_and_its_parts_are_all_heard() -> None:
    async with rig_of() as rig:
        first = await rig.start(app_of())
        await rig.spawn("emitter/a")
        gate = first.broker.gates["settle"] = asyncio.Event()
        task = await rig.client.stream("emitter/a", "emits", 300)
        heard = asyncio.ensure_future(_count(task))
        await rig.until(lambda: _done(bool(first.consumer.settler.replies._line)))
        second = await rig.start(app_of())
        leaving = asyncio.ensure_future(first.leave())
        await turns()
        gate.set()
        await leaving
        assert await task.result(int) == 300
        assert await heard == 300
        assert log == list(range(300)), "it ran once"
        assert await rig.client.ask("emitter/a", "hello") == "hello"
        await second.leave()


async def test_a_worker_ends_though_handlers_emit_in_their_last_moment() -> None:
    """The server stays away until the drain is over: whoever emits then must not wait for it for ever."""
    async with rig_of() as rig:
        worker = await rig.start(app_of(), drain_s=0.2)
        await rig.spawn("emitter/a")
        worker.broker.gates["settle"] = asyncio.Event()
        await rig.client.stream("emitter/a", "last_words", 1000)
        await rig.until(lambda: _done(bool(worker.consumer.settler.replies._line)))
        await worker.leave()
        assert log == ["ending", "ended"]


async def test_other_agents_have_their_turns_while_a_handler_emits_without_end() -> None:
    async with rig_of() as rig:
        await rig.start(app_of())
        await rig.spawn("emitter/a", "emitter/b")
        task = await rig.client.stream("emitter/a", "counts", 60_000)
        assert await rig.client.ask("emitter/b", "hello") == "hello"
        assert log == ["hello"], "the other one was still emitting"
        assert await task.result(int, timeout=30) == 60_000


# Whoever listens.


def parts_of() -> Parts:
    return Parts(Caller(FaultyBroker(MemoryServer()), "me"), ("emitter/a", "emits"), 1.0)


async def test_parts_that_nobody_takes_are_bounded_in_number_and_in_bytes_and_the_newest_stay() -> None:
    large = parts_of()
    for number in range(40):
        large._heard(raw([number, "x" * (MAX_RESULT_BYTES - 100)]))
    assert MOST_PARTS_BYTES - MAX_RESULT_BYTES < sum(len(one) for one in large._parts) <= MOST_PARTS_BYTES
    large.call.future.set_result(raw(None))
    assert [part[0] async for part in large] == list(range(40 - MOST_PARTS_BYTES // MAX_RESULT_BYTES, 40))
    assert large._bytes == 0
    small = parts_of()
    for number in range(MOST_PARTS + 5):
        small._heard(raw(number))
    small.call.future.set_result(raw(None))
    assert [part async for part in small] == list(range(5, MOST_PARTS + 5))


async def test_whoever_iterates_hears_all_parts_also_if_more_come_at_once_than_may_wait() -> None:
    async with calling() as (caller, broker):
        parts = Parts(caller, ("emitter/a", "emits"), 1.0)
        gate = broker.gates["read_replies"] = asyncio.Event()
        await broker.called("read_replies", broker.calls.get("read_replies", 0) + 1)
        for _ in range(5):
            await answer(broker, *[Reply(parts.call.number, PROGRESS, raw(PART)) for _ in range(60)])
        assert 5 * 60 * len(PART) > 1.5 * MOST_PARTS_BYTES
        await answer(broker, Reply(parts.call.number, DONE, raw(300)))
        gate.set()
        assert await _count(parts) == 300
        assert await parts.result(int) == 300


@fleet_test(app_of())
async def test_run_takes_no_parts(fleet: Fleet) -> None:
    await fleet.spawn("emitter", keys=["a"])
    kept = []

    def keep(parts: Parts, body: Any) -> None:
        kept.append(body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "_heard", keep)
        assert await fleet.client.run("emitter", "emits", 30, int) == 30
        assert not kept
        async for outcome in fleet.client.map("emitter", "emits", [3, 3], int, durable=True):
            assert outcome.result == 3
        assert not kept


async def _count(parts: Any) -> int:
    count = 0
    async for part in parts:
        assert part == PART
        count += 1
    return count


async def _done(condition: bool) -> bool:
    return condition
