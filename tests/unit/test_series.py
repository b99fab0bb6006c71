"""Messages sent together to one agent travel as a series; they are handled, and end, one by one all the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import msgspec
import pytest

from swell import Agent, App, Crash, WireError, handler
from swell.codec import decode_batch
from tests.unit.brokers import Rig, rig_of

app = App("series")
seen: dict[str, list[Any]] = {}


class Positive(msgspec.Struct):
    """A body with a check of its own."""

    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("a negative number")


@app.agent("noter", max_attempts=1)
class Noter(Agent):
    @handler
    async def note(self, body: int) -> None:
        seen.setdefault(self.id, []).append(body)

    @handler
    async def other(self, body: int) -> None:
        seen.setdefault(self.id, []).append(("other", body))

    @handler
    async def wait(self, body: int) -> None:
        if body == 5:
            await gate.wait()
        seen.setdefault(self.id, []).append(body)

    @handler
    async def checked(self, body: Positive) -> None:
        seen.setdefault(self.id, []).append(body.number)

    @handler
    async def fails(self, body: int) -> None:
        if body % 3 == 1:
            raise Crash("broken") if body % 2 else ValueError("no")
        seen.setdefault(self.id, []).append(body)


gate = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh() -> None:
    seen.clear()
    gate.clear()


async def inbox(rig: Rig, shard: str = "0") -> list[Any]:
    """All series of a shard, as they are in the stream."""
    await rig.broker.acquire(shard, "reader", 60_000)
    entries = await rig.broker.read("reader", [shard], 1000, 0)
    return [series for one in entries for series in decode_batch(one.payload, one.count).series]


async def test_messages_to_one_agent_name_it_once() -> None:
    async with rig_of() as rig:
        assert await rig.client.send_many([(f"noter/{n % 4}", "note", n) for n in range(32)]) == 32
        assert [(one.to, one.count) for one in await inbox(rig)] == [(f"noter/{n}", 8) for n in range(4)]


@pytest.mark.parametrize("count", [1, 31, 33, 2_000, 10_000])
async def test_each_agent_is_given_its_messages_in_the_order_sent_by_whatever_name(count: int) -> None:
    chance = random.Random(count)
    sent: dict[str, list[Any]] = {}

    def messages() -> Iterator[tuple[str, str, int]]:
        for number in range(count):
            to, name = f"noter/{chance.randrange(7)}", chance.choice(("note", "note", "note", "other"))
            sent.setdefault(to, []).append(number if name == "note" else ("other", number))
            yield to, name, number

    async with rig_of(shards=3) as rig:
        await rig.start(app)
        await rig.spawn(*(f"noter/{n}" for n in range(7)))
        assert await rig.client.send_many(messages()) == count
        await rig.settled()
    assert seen == sent


@pytest.mark.parametrize("wrong", [0, 5, 40, 99])
async def test_a_body_that_cannot_be_sent_ends_the_call_and_those_before_it_and_no_others_are_sent(wrong: int) -> None:
    async with rig_of() as rig:
        bodies = [object() if n == wrong else n for n in range(100)]
        with pytest.raises(WireError, match="noter/"):
            await rig.client.send_many((f"noter/{n % 3}", "note", body) for n, body in enumerate(bodies))
        await rig.client.send("noter/0", "note", "last")
        found = [msgspec.msgpack.decode(one.body) for series in await inbox(rig) for one in series.messages()]
        assert sorted(found[:-1]) == list(range(wrong))
        assert found[-1] == "last"


async def test_a_name_that_cannot_be_sent_ends_the_call_and_those_before_it_are_sent() -> None:
    async with rig_of() as rig:
        with pytest.raises(WireError, match="cannot be sent"):
            await rig.client.send_many([("noter/1", "note", 1), ("noter/1", "\ud800", 2), ("noter/1", "note", 3)])
        assert [(one.name, one.count) for one in await inbox(rig)] == [("note", 1)]


@pytest.mark.parametrize("at", [0, 7, 32, 45])
async def test_an_iterator_that_raises_ends_the_call_and_what_it_gave_is_sent(at: int) -> None:
    def messages() -> Iterator[tuple[str, str, int]]:
        for number in range(at):
            yield "noter/1", "note", number
        raise RuntimeError("no more")

    async with rig_of() as rig:
        with pytest.raises(RuntimeError, match="no more"):
            await rig.client.send_many(messages())
        await rig.client.send("noter/1", "note", at)
        assert sum([series.count for series in await inbox(rig)]) == at + 1


async def test_a_body_may_be_changed_when_its_message_is_given() -> None:
    def messages() -> Iterator[tuple[str, str, dict[str, int]]]:
        body = {"number": 0}
        for number in range(100):
            body["number"] = number
            yield f"noter/{number % 3}", "note", body

    async with rig_of() as rig:
        await rig.client.send_many(messages())
        found = [msgspec.msgpack.decode(one.body) for series in await inbox(rig) for one in series.messages()]
    assert sorted(body["number"] for body in found) == list(range(100))


@pytest.mark.parametrize("size", [20_000, 1_100_000])
async def test_a_large_message_goes_behind_those_before_it_and_one_that_is_too_large_says_so(size: int) -> None:
    bodies: list[Any] = [1, b"x" * size, 2]
    async with rig_of() as rig:
        sending = rig.client.send_many(("noter/1", "note", body) for body in bodies)
        if size > 1 << 20:
            with pytest.raises(WireError, match=r"the message to noter/1 has 11\d+ bytes; at most 1048576"):
                await sending
            bodies = bodies[:1]
        else:
            assert await sending == 3
        found = [msgspec.msgpack.decode(one.body) for series in await inbox(rig) for one in series.messages()]
    assert found == bodies


async def test_large_bodies_are_taken_few_at_a_time() -> None:
    class Large(msgspec.Struct, weakref=True, eq=False):
        data: bytes

    alive: WeakSet[Large] = WeakSet()
    most = 0

    def messages() -> Iterator[tuple[str, str, Large]]:
        nonlocal most
        for _ in range(200):
            body = Large(bytes(500_000))
            alive.add(body)
            most = max(most, len(alive))
            yield "noter/1", "note", body

    async with rig_of() as rig:
        assert await rig.client.send_many(messages()) == 200
    assert most <= 3


async def test_a_body_that_does_not_fit_ends_alone() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("noter/1")
        bodies: list[Any] = [{"number": n} for n in range(20)]
        bodies[3], bodies[17] = {"number": "x"}, {"number": -1}
        await rig.client.send_many(("noter/1", "checked", body) for body in bodies)
        await rig.settled()
        letters = await rig.letters()
    assert seen["noter/1"] == [n for n in range(20) if n not in (3, 17)]
    assert sorted([letter.body for letter in letters], key=str) == sorted([bodies[3], bodies[17]], key=str)
    assert all(letter.reason.endswith("$.number`") or "negative" in letter.reason for letter in letters)


async def test_a_handler_that_fails_ends_its_own_message_and_the_rest_goes_on_in_order() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("noter/1")
        await rig.client.send_many(("noter/1", "fails", n) for n in range(16))
        await rig.settled()
        letters = await rig.letters()
        assert worker.recorder.counter("handled", "noter").n == 11
    assert seen["noter/1"] == [n for n in range(16) if n % 3 != 1][: len(seen["noter/1"])]
    assert len(letters) + len(seen["noter/1"]) == 16


async def test_what_ended_of_a_series_is_settled_while_its_next_message_takes_long_and_is_not_handled_again() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.spawn("noter/1")
        await rig.client.send_many(("noter/1", "wait", n) for n in range(12))

        async def half() -> bool:
            return (await rig.broker.ledger("0")).depth == 7

        await rig.until(half)
        await first.die()
        rig.clock.pass_ms(3_600_000)
        gate.set()
        await rig.start(app)
        await rig.settled()
    assert seen["noter/1"] == list(range(12))


@pytest.mark.parametrize("mailbox", [1, 2, 16])
async def test_a_series_that_has_no_room_waits_in_the_stream_and_keeps_its_order(mailbox: int) -> None:
    async with rig_of() as rig:
        await rig.start(app, mailbox=mailbox)
        await rig.spawn("noter/1", "noter/2")
        gate.set()
        for _ in range(5):
            await rig.client.send_many((f"noter/{1 + n % 2}", "wait", n) for n in range(100))
        await rig.settled()
    assert seen["noter/1"] == [n for _ in range(5) for n in range(0, 100, 2)]
    assert seen["noter/2"] == [n for _ in range(5) for n in range(1, 100, 2)]


async def test_two_births_in_one_series_make_one_agent() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.client.send_many([("noter/1", "$spawn", {"plan": "p"})] * 2 + [("noter/1", "note", 1)])
        await rig.settled()
        record = await rig.record("noter/1")
        assert record is not None
        assert (record.state, record.generation) == ("ready", 1)
    assert seen["noter/1"] == [1]
