"""Senders that wait for room only so long: what they are told is true, of this moment and of all to come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from swell.bus import producer as module
from swell.bus.broker import Lease, Outcome, Settlement
from swell.bus.producer import Producer
from swell.codec import decode, decode_batch
from swell.errors import BrokerFull, BrokerUnavailable, Busy, NotAppended, SwellError, WireError
from tests.unit.test_producer import NO_WAIT, Unreliable, filled, message, producing

AWAY = BrokerUnavailable("the server is away")


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(module, "BUSY", NO_WAIT)


async def drain(broker: Unreliable, shard: str = "0") -> list[int]:
    """Read and settle all that is in a shard, as its owner; returns the bodies."""
    lease = await broker.inner.acquire(shard, "reader", 60_000)
    assert isinstance(lease, Lease)
    bodies = []
    while entries := await broker.inner.read("reader", [shard], 100, 0):
        for entry in entries:
            bodies += [decode(one.body, int) for one in decode_batch(entry.payload, entry.count).messages]
        outcomes = [Outcome(entry.id, entry.count) for entry in entries]
        await broker.inner.settle([Settlement(lease, outcomes)])
    return bodies


async def fill(producer: Producer, *shards: str) -> None:
    """Ten messages into each shard, which is as many as fit."""
    await producer.send_many((shard, message(-1)) for shard in shards for _ in range(10))


async def until_refused(broker: Unreliable, calls: int) -> None:
    """Let that many more appends be answered."""
    seen = len(broker.calls)
    while len(broker.calls) < seen + calls:
        await asyncio.sleep(0)


@pytest.mark.parametrize("wait_s", [0.0, 0.02])
async def test_a_sender_that_waits_no_longer_for_room_is_told_and_its_message_is_never_appended(wait_s: float) -> None:
    async with producing(max_depth=10) as (producer, broker):
        await fill(producer, "0")
        with pytest.raises(Busy) as raised:
            await producer.send("0", message(1), wait_s)
        assert (raised.value.shard, raised.value.depth, raised.value.sent) == ("0", 10, 0)
        assert raised.value.unsent == [0]
        await drain(broker)
        await producer.send("0", message(2), wait_s)
        assert await drain(broker) == [2]
        assert producer._recorder.take().counts["busy_refusals"] == {"": 1}  # type: ignore[union-attr]
        ledger = await broker.inner.ledger("0")
    assert (ledger.sent, ledger.rewinds, ledger.balanced) == (11, 0, True)


async def test_a_message_taken_out_of_a_batch_leaves_its_neighbours_in_order() -> None:
    async with producing(max_depth=10) as (producer, broker):
        await fill(producer, "0")
        broker.gate.clear()
        senders = [asyncio.ensure_future(producer.send("0", message(0)))]
        await until_refused(broker, 1)
        # These gather in the batch behind; each second sender is in no mood to wait.
        senders += [
            asyncio.ensure_future(producer.send("0", message(number), 0 if number % 2 else None))
            for number in range(1, 21)
        ]
        await asyncio.sleep(0)
        broker.gate.set()
        told = await asyncio.gather(*senders[1::2], return_exceptions=True)
        assert all(isinstance(one, Busy) for one in told)
        assert not any(sender.done() for sender in senders[::2])
        got = await drain(broker)
        await asyncio.gather(*senders[::2])
        got += await drain(broker)
        assert got == [-1] * 10 + list(range(0, 21, 2))
        assert (await broker.inner.ledger("0")).rewinds == 0


async def test_when_all_of_a_batch_is_taken_out_those_behind_it_go_on() -> None:
    async with producing(max_depth=256) as (producer, broker):
        await producer.send_many(("0", message(-1)) for _ in range(256))
        broker.gate.clear()
        first = asyncio.ensure_future(producer.send_limited([("0", message(1))] * 256, 0))
        await until_refused(broker, 1)
        patient = [asyncio.ensure_future(producer.send("0", message(n))) for n in range(2, 5)]
        await asyncio.sleep(0)
        broker.gate.set()
        with pytest.raises(Busy) as raised:
            await first
        assert (raised.value.sent, raised.value.unsent) == (0, list(range(256)))
        got = await drain(broker)
        await asyncio.gather(*patient)
        got += await drain(broker)
        assert got == [-1] * 256 + [2, 3, 4]
        assert (await broker.inner.ledger("0")).rewinds == 0


async def test_after_all_were_refused_the_next_finds_the_room_that_there_is() -> None:
    async with producing(max_depth=10) as (producer, broker):
        await fill(producer, "0")
        for number in range(5):
            with pytest.raises(Busy):
                await producer.send("0", message(number), 0)
        waiting = asyncio.ensure_future(producer.send("0", message(5), 60))
        await until_refused(broker, 3)
        got = await drain(broker)
        await waiting
        got += await drain(broker)
        assert got == [-1] * 10 + [5]


async def test_of_many_messages_those_for_full_shards_are_named_and_the_others_are_durable() -> None:
    async with producing(max_depth=10) as (producer, broker):
        await fill(producer, "0", "2")
        with pytest.raises(Busy) as raised:
            await producer.send_limited(((str(number % 4), message(number)) for number in range(12)), 0)
        assert (raised.value.sent, raised.value.unsent) == (6, [0, 2, 4, 6, 8, 10])
        assert [await drain(broker, shard) for shard in "13"] == [[1, 5, 9], [3, 7, 11]]
        assert [await drain(broker, shard) for shard in "02"] == [[-1] * 10] * 2


async def test_of_many_messages_for_a_shard_the_last_are_missing_when_room_runs_out() -> None:
    async with producing(max_depth=1000) as (producer, broker):
        with pytest.raises(Busy) as raised:
            await producer.send_limited((("0", message(number)) for number in range(5000)), 0)
        sent = raised.value.sent
        assert sent > 0
        assert raised.value.unsent == list(range(sent, 5000))
        assert await drain(broker) == list(range(sent))


async def test_a_message_that_is_on_its_way_when_the_wait_is_over_is_told_of_by_its_answer() -> None:
    async with producing(max_depth=10) as (producer, broker):
        await fill(producer, "0")
        waiting = asyncio.ensure_future(producer.send("0", message(1), 60))
        broker.gate.clear()
        await until_refused(broker, 1)
        broker.gate.set()
        await until_refused(broker, 1)
        broker.gate.clear()
        await until_refused(broker, 1)
        got = await drain(broker)
        lane = producer.lane("0")
        for run in lane.limited:
            run.overdue = True
        producer.strike(lane)
        broker.gate.set()
        await waiting
        assert got + await drain(broker) == [-1] * 10 + [1]


async def test_what_was_sent_and_not_answered_may_have_been_appended_and_the_sender_is_told_so() -> None:
    async with producing(max_depth=10) as (producer, broker):
        broker.faults = [AWAY]
        with pytest.raises(BrokerUnavailable, match="may have been appended") as raised:
            await producer.send("0", message(1), 0)
        assert not isinstance(raised.value, NotAppended)
        await producer.send("0", message(2))
        assert await drain(broker) == [1, 2]
        await fill(producer, "0")
        # The answer is lost, and the next is a refusal: the first may still be on its way.
        broker.faults = [AWAY]
        with pytest.raises(BrokerUnavailable, match="may have been appended"):
            await producer.send("0", message(3), 0.01)
        got = await drain(broker)
        await producer.send("0", message(4))
        assert got + await drain(broker) == [-1] * 10 + [3, 4]


async def test_what_was_not_sent_when_the_server_went_away_is_not_appended() -> None:
    async with producing() as (producer, broker):
        broker.gate.clear()
        first = asyncio.ensure_future(producer.send("0", message(1)))
        await broker.arrived.wait()
        broker.faults = [AWAY] * 3
        second = asyncio.ensure_future(producer.send("0", message(2), 0))
        elsewhere = asyncio.ensure_future(producer.send_limited((("1", message(n)) for n in range(3)), 0))
        await asyncio.sleep(0)
        broker.gate.set()
        with pytest.raises(NotAppended):
            await second
        with pytest.raises(NotAppended, match=r"0 of 3 are appended, 0 may be, 3 are not"):
            await elsewhere
        await first
    assert await broker.inbox("0") == [1]
    assert await broker.inbox("1") == []


async def test_a_server_out_of_memory_is_a_lack_of_room() -> None:
    async with producing() as (producer, broker):
        broker.faults = [BrokerFull("the server is out of memory")] * 3
        with pytest.raises(Busy, match="out of memory"):
            await producer.send("0", message(1), 0)
        await producer.send("0", message(2))
        assert await drain(broker) == [2]


async def test_a_limited_asker_is_told_in_line_and_in_a_batch() -> None:
    async with producing(max_depth=10) as (producer, broker):
        await fill(producer, "0")
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await producer.post("0", message(1), answer, 60, 0)
        with pytest.raises(Busy):
            await answer
        waiting = asyncio.ensure_future(producer.send("0", message(2)))
        await until_refused(broker, 2)
        answer = asyncio.get_running_loop().create_future()
        with pytest.raises(Busy):
            await producer.post("0", message(3), answer, 60, 0)
        got = await drain(broker)
        await waiting
        answer = asyncio.get_running_loop().create_future()
        await producer.post("0", message(4), answer, 60, 0)
        await producer.send("0", message(5))
        assert not answer.done()
        assert got + await drain(broker) == [-1] * 10 + [2, 4, 5]


async def test_a_full_lane_of_a_server_that_has_room_is_no_reason_to_refuse() -> None:
    async with producing() as (producer, broker):
        senders = await filled(producer, broker)
        waiting = asyncio.ensure_future(producer.send("0", message(1), 0))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        broker.gate.set()
        await waiting
        await asyncio.gather(*senders)


async def test_of_many_limited_messages_those_before_one_that_cannot_be_sent_go() -> None:
    def messages() -> Iterator[tuple[str, tuple[object, ...]]]:
        yield "0", message(1)
        yield "0", ("echo/1", "echo", object(), 0)

    async with producing() as (producer, broker):
        with pytest.raises(WireError):
            await producer.send_limited(messages(), 5)
    assert await broker.inbox("0") == [1]


async def test_the_wait_advised_grows_with_the_time_that_a_shard_was_full() -> None:
    async with producing(max_depth=10) as (producer, broker):
        lane = producer.lane("0")
        lane.refused(100, 5, 1000.0)
        assert lane.busy(1000.0).retry_after_s == 0.1
        lane.not_before = 1004.0
        lane.refused(100, 5, 1004.0)
        assert lane.busy(1004.0).retry_after_s == 4.0
        # It falls by 10 a second now; there will be room for 5 more in half of one.
        lane.refused(60, 5, 1004.0)
        assert lane.busy(1004.0).retry_after_s == pytest.approx(0.5)
        lane.refused(100, 5, 1500.0)
        assert lane.busy(1500.0).retry_after_s == 0.1
        assert broker.calls == []


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_what_senders_were_told_is_so(seed: int) -> None:
    """Many senders with and without limits, a slow owner, lost answers, a server away, out of memory, in any order."""
    random_ = random.Random(seed)
    told: dict[int, str] = {}
    lines: dict[int, list[int]] = {}
    numbers = iter(range(1_000_000))
    got: list[int] = []
    kept: list[bool] = []

    async def send(producer: Producer, line: int) -> None:
        for _ in range(40):
            count = random_.choice((1, 1, 7, 60, 90))
            mine = [next(numbers) for _ in range(count)]
            lines.setdefault(line, []).extend(mine)
            wait_s = random_.choice((None, 0, 0, 0.001, 0.01))
            told.update(dict.fromkeys(mine, "yes"))
            try:
                given = (("0", message(one)) for one in mine)
                if wait_s is None:
                    await producer.send_many(given)
                else:
                    await producer.send_limited(given, wait_s)
            except Busy as busy:
                told.update({mine[place]: "no" for place in busy.unsent})
                kept.append(busy.sent == count - len(busy.unsent))
            except NotAppended as error:
                told.update(dict.fromkeys(mine, "maybe" if count > 1 and "0 of" not in str(error) else "no"))
            except SwellError as error:
                told.update(dict.fromkeys(mine, "maybe"))
                kept.append("may" in str(error))
            for _ in range(random_.randrange(3)):
                await asyncio.sleep(0)

    async with producing(max_depth=260) as (producer, broker):
        senders = [asyncio.ensure_future(send(producer, line)) for line in range(8)]
        while not all(sender.done() for sender in senders):
            for _ in range(random_.randrange(6)):
                await asyncio.sleep(0)
            if random_.random() < 0.1:
                broker.faults.append(random_.choice((AWAY, "lost", "lost", BrokerFull("no memory"))))
            if random_.random() < 0.3:
                got += await drain(broker)
        for sender in senders:
            sender.result()
        got += await drain(broker)
        ledger = await broker.inner.ledger("0")
    got += await drain(broker)
    assert ledger.rewinds == 0
    assert len(got) == len(set(got))
    arrived = set(got)
    assert {one for one, answer in told.items() if answer == "yes"} <= arrived
    assert not {one for one, answer in told.items() if answer == "no"} & arrived
    assert {"yes", "no"} <= set(told.values())
    place = {one: at for at, one in enumerate(got)}
    for line in lines.values():
        here = [place[one] for one in line if one in place]
        assert here == sorted(here)
    assert all(kept)
