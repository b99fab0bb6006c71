"""The producer against a real (memory) broker that can be told to fail, to lose its answers, or to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from swell.backoff import Backoff
from swell.bus import producer as module
from swell.bus.broker import Append, Appended, Broker, Lease, Outcome, Settlement
from swell.bus.memory import MemoryBroker
from swell.bus.memory_server import MemoryServer
from swell.bus.producer import LANE_BATCHES, Producer
from swell.codec import MAX_BATCH_BYTES, MAX_BATCH_MESSAGES, decode, decode_batch
from swell.errors import BrokerFull, BrokerRefused, BrokerUnavailable, WireError
from swell.instruments import Recorder

NO_WAIT = Backoff(0.0, 0.0)


class Unreliable:
    """A memory broker whose appends wait for a gate, fail before they are done, or lose their answer after.

    Attributes:
        faults: what the next appends meet, in order: an error before, or "lost" for an answer lost after.
        calls: what each append carried.
    """

    def __init__(self) -> None:
        self.inner = MemoryBroker(MemoryServer(), "tests")
        self.faults: list[Exception | str] = []
        self.calls: list[list[Append]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()

    async def append(self, producer: str, appends: Sequence[Append], max_depth: int) -> list[Appended]:
        self.calls.append(list(appends))
        self.arrived.set()
        await self.gate.wait()
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        answers = await self.inner.append(producer, appends, max_depth)
        if fault == "lost":
            raise BrokerUnavailable("the answer was lost")
        return answers

    async def inbox(self, shard: str) -> list[int]:
        """The bodies of all messages in a shard, in order."""
        await self.inner.acquire(shard, "reader", 60_000)
        read = await self.inner.read("reader", [shard], 100_000, 0)
        messages = [message for entry in read for message in decode_batch(entry.payload, entry.count).messages]
        return [decode(message.body, int) for message in messages]


@asynccontextmanager
async def producing(max_depth: int = 1_000_000) -> AsyncIterator[tuple[Producer, Unreliable]]:
    broker = Unreliable()
    await broker.inner.open(8)
    one = Producer(cast(Broker, broker), "p", max_depth, Recorder("p"))
    async with asyncio.TaskGroup() as group:
        group.create_task(one.run())
        yield one, broker
        one.close()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(module, "BUSY", NO_WAIT)


def message(number: int) -> tuple[object, ...]:
    return ("echo/1", "echo", number, 0)


async def test_what_gathers_while_an_append_is_in_flight_goes_with_the_next_for_all_shards() -> None:
    async with producing() as (producer, broker), asyncio.TaskGroup() as senders:
        broker.gate.clear()
        senders.create_task(producer.send("0", message(0)))
        await broker.arrived.wait()
        for number in range(1, 50):
            senders.create_task(producer.send(str(number % 3), message(number)))
        await asyncio.sleep(0)
        broker.gate.set()
    assert [(append.shard, append.count) for append in broker.calls[0]] == [("0", 1)]
    assert sorted((append.shard, append.count) for append in broker.calls[1]) == [("0", 16), ("1", 17), ("2", 16)]
    assert len(broker.calls) == 2
    assert await broker.inbox("0") == list(range(0, 50, 3))


async def test_an_append_whose_answer_is_lost_is_sent_again_and_written_once() -> None:
    async with producing() as (producer, broker):
        broker.faults = ["lost", BrokerUnavailable("away"), BrokerFull("no memory"), "lost"]
        for number in range(5):
            await producer.send("0", message(number))
    assert [call[0].seq for call in broker.calls] == [1, 1, 1, 1, 1, 2, 3, 4, 5]
    assert await broker.inbox("0") == [0, 1, 2, 3, 4]
    ledger = await broker.inner.ledger("0")
    assert (ledger.sent, ledger.balanced) == (5, True)
    measured = producer._recorder.take()
    assert measured is not None
    assert measured.counts["duplicates"] == {"": 1}


async def test_a_full_shard_makes_its_senders_wait_and_holds_up_no_other() -> None:
    async with producing(max_depth=10) as (producer, broker):
        async with asyncio.TaskGroup() as group:
            group.create_task(producer.send_many(("0", message(number)) for number in range(10)))
        waiting = asyncio.ensure_future(producer.send("0", message(10)))
        await producer.send_many(("1", message(number)) for number in range(10))
        assert not waiting.done()
        lease = await broker.inner.acquire("0", "reader", 60_000)
        (entry,) = await broker.inner.read("reader", ["0"], 10, 0)
        assert isinstance(lease, Lease)
        await broker.inner.settle([Settlement(lease, [Outcome(entry.id, 10)])])
        await waiting
        assert (await broker.inner.ledger("0")).refused > 0


async def test_order_holds_through_busy_shards_lost_answers_and_full_lanes() -> None:
    async with producing() as (producer, broker):
        broker.faults = ["lost", BrokerUnavailable("away")] * 20
        sent = await producer.send_many(("0", message(number)) for number in range(20_000))
        assert sent == 20_000
    assert await broker.inbox("0") == list(range(20_000))


async def test_a_lane_holds_no_more_than_its_batches_and_lets_senders_in_one_after_another() -> None:
    async with producing() as (producer, broker):
        broker.gate.clear()
        room = LANE_BATCHES * MAX_BATCH_MESSAGES
        senders = [asyncio.ensure_future(producer.send("0", message(number))) for number in range(room + 600)]
        await broker.arrived.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        lane = producer._lanes["0"]
        assert len(lane.batches) == LANE_BATCHES
        assert len(lane.room) >= 599
        broker.gate.set()
        await asyncio.gather(*senders)
    assert await broker.inbox("0") == list(range(room + 600))


async def test_a_cancelled_sender_harms_nobody() -> None:
    async with producing() as (producer, broker):
        broker.gate.clear()
        senders = [asyncio.ensure_future(producer.send("0", message(number))) for number in range(3)]
        await broker.arrived.wait()
        senders[1].cancel()
        await asyncio.sleep(0)
        broker.gate.set()
        await asyncio.gather(senders[0], senders[2])
    assert await broker.inbox("0") == [0, 1, 2]


async def test_a_server_that_forgot_us_gets_what_is_in_hand_under_a_new_name(caplog: pytest.LogCaptureFixture) -> None:
    async with producing() as (producer, broker):
        await producer.send_many(("0", message(number)) for number in range(3))
        broker.inner = MemoryBroker(MemoryServer(), "tests")
        await broker.inner.open(8)
        await producer.send("0", message(3))
        await producer.send("0", message(4))
    assert await broker.inbox("0") == [3, 4]
    assert "it lost data" in caplog.text


async def test_a_refusal_reaches_the_senders_and_the_next_message_goes_through() -> None:
    async with producing() as (producer, broker):
        broker.faults = [BrokerRefused("no rights")]
        with pytest.raises(BrokerRefused, match="no rights"):
            await producer.send("0", message(0))
        await producer.send("0", message(1))
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        broker.faults = [BrokerRefused("not this either")]
        await producer.post("0", message(2), answer, 5)
        with pytest.raises(BrokerRefused, match="not this either"):
            await answer
    assert await broker.inbox("0") == [1]


async def test_a_body_that_cannot_be_sent_is_named_and_its_neighbours_go() -> None:
    async with producing() as (producer, broker):
        await producer.send("0", message(0))
        with pytest.raises(WireError, match="the body for echo/1 'echo' cannot be sent"):
            await producer.send("0", ("echo/1", "echo", object(), 0))
        with pytest.raises(WireError, match="at most 1048576 are allowed"):
            await producer.send("0", ("echo/1", "echo", b"x" * (1 << 20), 0))
        await producer.send("0", message(1))
    assert await broker.inbox("0") == [0, 1]


async def test_closing_appends_what_was_given() -> None:
    async with producing() as (producer, broker):
        broker.gate.clear()
        senders = [asyncio.ensure_future(producer.send("0", message(number))) for number in range(500)]
        await broker.arrived.wait()
        producer.close()
        broker.gate.set()
    await asyncio.gather(*senders)
    assert await broker.inbox("0") == list(range(500))


async def test_a_server_that_forgot_a_shard_while_it_was_busy_is_noticed() -> None:
    async with producing(max_depth=2) as (producer, broker):
        await producer.send_many([("0", message(0)), ("0", message(1))])
        waiting = asyncio.ensure_future(producer.send("0", message(2)))
        while len(broker.calls) < 3:
            await asyncio.sleep(0)
        # It was refused as busy; then the server comes back empty.
        broker.inner = MemoryBroker(MemoryServer(), "tests")
        await broker.inner.open(8)
        async with asyncio.timeout(5):
            await waiting
    assert await broker.inbox("0") == [2]


async def test_of_many_messages_those_before_one_that_cannot_be_sent_go_at_once() -> None:
    def messages() -> Iterator[tuple[str, tuple[object, ...]]]:
        yield "0", message(0)
        yield "1", message(1)
        yield "0", ("echo/1", "echo", object(), 0)
        yield "0", message(3)

    async with producing() as (producer, broker):
        await producer.send("2", message(0))  # From now on it rests until there is something to append.
        broker.arrived.clear()
        with pytest.raises(WireError):
            await producer.send_many(messages())
        async with asyncio.timeout(5):
            await broker.arrived.wait()
    assert await broker.inbox("0") == [0]
    assert await broker.inbox("1") == [1]


async def filled(producer: Producer, broker: Unreliable) -> list[asyncio.Future[None]]:
    """Fill the lane of shard 0 while its append is held up, with messages that take a batch each."""
    broker.gate.clear()
    large = bytes(MAX_BATCH_BYTES - 100)
    senders = [asyncio.ensure_future(producer.send("0", ("echo/1", "echo", large, 0))) for _ in range(LANE_BATCHES)]
    await broker.arrived.wait()
    return senders


async def test_messages_that_wait_in_line_are_appended_in_the_order_of_the_calls_whatever_their_size() -> None:
    async with producing() as (producer, broker):
        senders = await filled(producer, broker)
        bodies = [bytes(MAX_BATCH_BYTES - 100) if number % 3 else b"" for number in range(40)]
        for number, body in enumerate(bodies):
            senders.append(asyncio.ensure_future(producer.send("0", ("echo/1", "echo", (number, body), 0))))
        await asyncio.sleep(0)
        broker.gate.set()
        latecomers = 0
        while not all(sender.done() for sender in senders):
            # Somebody comes at every moment, also when room has just been made.
            senders.append(asyncio.ensure_future(producer.send("0", ("echo/1", "echo", (len(senders), b""), 0))))
            latecomers += 1
            await asyncio.sleep(0)
            if latecomers == 50:
                await asyncio.gather(*senders)
        await asyncio.gather(*senders)
        await broker.inner.acquire("0", "reader", 60_000)
        numbers = []
        while read := await broker.inner.read("reader", ["0"], 8, 0):
            for entry in read:
                batch = decode_batch(entry.payload, entry.count)
                numbers += [decode(message.body, Any) for message in batch.messages]
    told = [body[0] for body in numbers if isinstance(body, list)]
    assert told == sorted(told)
    assert len(told) == 40 + latecomers


async def test_senders_that_leave_the_line_hold_up_nobody_behind_them() -> None:
    async with producing() as (producer, broker):
        senders = await filled(producer, broker)
        impatient = [asyncio.ensure_future(producer.send("0", message(number))) for number in range(300)]
        unfit = asyncio.ensure_future(producer.send("0", ("echo/1", "echo", object(), 0)))
        patient = asyncio.ensure_future(producer.send("0", message(300)))
        many = asyncio.ensure_future(producer.send_many(("0", message(number)) for number in range(301, 310)))
        await asyncio.sleep(0)
        broker.gate.set()
        await asyncio.wait(senders, return_when=asyncio.FIRST_COMPLETED)
        for sender in impatient:
            sender.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait(impatient)
            with pytest.raises(WireError):
                await unfit
            await patient
            assert await many == 9
            await asyncio.gather(*senders)
        assert not producer._lanes["0"].room


async def test_an_asker_whose_time_in_line_is_over_is_told_and_its_message_is_not_sent() -> None:
    async with producing() as (producer, broker):
        senders = await filled(producer, broker)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with pytest.raises(TimeoutError):
            await producer.post("0", ("echo/1", "echo", bytes(1000), 0), answer, 0)
        assert not producer._lanes["0"].room
        broker.gate.set()
        await producer.post("0", message(1), answer, 5)
        await asyncio.gather(*senders)
    assert (await broker.inner.ledger("0")).sent == LANE_BATCHES + 1


async def test_what_is_sent_to_a_producer_that_has_ended_is_refused_and_nobody_waits_for_ever() -> None:
    broker = Unreliable()
    await broker.inner.open(8)
    producer = Producer(cast(Broker, broker), "p", 1_000_000, Recorder("p"))
    running = asyncio.ensure_future(producer.run())
    senders = await filled(producer, broker)
    large = ("echo/1", "echo", bytes(1000), 0)
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    posted = asyncio.ensure_future(producer.post("0", large, answer, 60))
    many = asyncio.ensure_future(producer.send_many([("1", message(0)), ("0", large), ("1", message(1))]))
    await asyncio.sleep(0)
    producer.close()
    running.cancel()
    async with asyncio.timeout(5):
        for waiting in (*senders, posted, many):
            with pytest.raises(BrokerUnavailable, match="closed"):
                await waiting
        for later in (producer.send("0", message(1)), producer.post("0", message(1), answer, 60)):
            with pytest.raises(BrokerUnavailable, match="closed"):
                await later
        with pytest.raises(BrokerUnavailable, match="closed"):
            await producer.send_many([("0", message(1))])
    await asyncio.wait({running})


async def test_a_shard_with_large_messages_does_not_keep_the_others_out() -> None:
    async with producing() as (producer, broker):
        broker.gate.clear()
        large = ("echo/1", "echo", bytes(MAX_BATCH_BYTES - 21), 0)  # With its fields, as large as a batch may be.
        senders = [asyncio.ensure_future(producer.send("0", large)) for _ in range(30)]
        await broker.arrived.wait()
        other = asyncio.ensure_future(producer.send("1", message(0)))
        await asyncio.sleep(0)
        broker.gate.set()
        await other
        assert not all(sender.done() for sender in senders)
        await asyncio.gather(*senders)


async def test_a_sender_that_was_idle_until_the_server_forgot_it_goes_on_under_a_new_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with producing() as (one, broker):
        await one.send("0", message(0))
        broker.inner._space.inbox("0")._producers.clear()  # As the server does after a day.
        monkeypatch.setattr(module, "FORGOTTEN_S", -1.0)
        await one.send("0", message(1))
        assert await broker.inbox("0") == [0, 1]
        assert (await broker.inner.ledger("0")).rewinds == 0
