"""The worker's side of the consumer, alone: entries in, handlers run, entries ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from swell import Agent, App, Client, handler
from swell.bus.broker import Broker, Delivered, Inheritance, Lease
from swell.bus.consumer import Consumer
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.codec import MessageBuffer, decode_batch, encode
from swell.instruments import Recorder
from swell.wire import AgentRecord
from swell_worker.cell import Cell
from swell_worker.host import Fleet

app = App("tests")
FOR_EVER_NS = 1 << 62


@app.agent("worker")
class Worker(Agent):
    """Notes what it handles and whether it ever handles two things at once."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.active = 0
        self.most_active = 0

    @handler
    async def work(self, body: int) -> None:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        await asyncio.sleep(0)
        self.seen.append(body)
        self.active -= 1


class Inbox:
    """Stands where the server does: keeps the entries that parked messages are fetched from."""

    def __init__(self) -> None:
        self.entries: dict[str, Delivered] = {}
        self.fetches = 0

    async def fetch(self, shard: str, ids: list[str]) -> list[Delivered]:
        self.fetches += 1
        return [self.entries[id] for id in ids if id in self.entries]

    async def fire(self, lease: Lease, nexts: list[object]) -> None:
        """No message waits for its time."""


class Waker:
    """The part of a consumer that a fleet without replies needs."""

    def __init__(self) -> None:
        self.resumed = asyncio.Event()
        self.lost_shards: list[str] = []

    def resume(self) -> None:
        self.resumed.set()

    def lost(self, shard: OwnedShard) -> None:
        self.lost_shards.append(shard.name)
        shard.stop()


class Bench:
    """A fleet with one shard and one agent, and what it takes to deliver to it."""

    def __init__(self, mailbox: int) -> None:
        self.inbox = Inbox()
        self.waker = Waker()
        self.fleet = Fleet(
            app,
            cast(Broker, self.inbox),
            cast(Client, SimpleNamespace(process="tests", max_depth=1)),
            Recorder("tests"),
            mailbox=mailbox,
            buffer=256,
        )
        self.shard = OwnedShard(Lease("0", "me", 1, "t"), Inheritance({}, {}, {}), FOR_EVER_NS, asyncio.Event())
        self.sent = 0

    @property
    def cell(self) -> Cell:
        return self.fleet._shards["0"].cells["worker/1"]

    @property
    def agent(self) -> Any:
        return self.cell._agent

    def deliver(self, messages: int) -> Entry:
        """Deliver one entry with the next `messages` messages."""
        buffer = MessageBuffer()
        for _ in range(messages):
            buffer.add(("worker/1", "work", self.sent, time.time_ns() // 1000))
            self.sent += 1
        payload = buffer.batch("p", 1)
        id = f"{self.sent}-0"
        self.inbox.entries[id] = Delivered("0", id, messages, payload)
        entry = self.shard.opened(id, messages, len(payload), 0)
        self.fleet.deliver(entry, decode_batch(payload, messages))
        return entry

    async def quiet(self) -> None:
        """Return when no agent has anything to do."""
        async with asyncio.timeout(10):
            while self.fleet.awake:
                await asyncio.sleep(0)


@asynccontextmanager
async def bench(mailbox: int = 1024) -> AsyncIterator[Bench]:
    one = Bench(mailbox)
    record = encode(AgentRecord("worker", "1", "ready"))
    async with asyncio.TaskGroup() as group:
        one.fleet.attach(cast(Consumer, one.waker), group)
        await one.fleet.opened(one.shard, Inheritance({"worker/1": record}, {}, {}))
        await one.quiet()
        yield one
        one.shard.stop()
        await one.fleet.closing(one.shard)
        one.fleet.end()


async def test_one_message_at_a_time_in_order() -> None:
    async with bench() as b:
        entries = [b.deliver(7) for _ in range(10)]
        await b.quiet()
        assert b.agent.seen == list(range(70))
        assert b.agent.most_active == 1
        assert b.shard.done == entries


async def test_messages_that_come_while_a_handler_waits_join_its_turn() -> None:
    async with bench() as b:
        b.deliver(1)
        await asyncio.sleep(0)
        first = b.cell.task
        assert first is not None
        b.deliver(3)
        await asyncio.sleep(0)
        b.deliver(3)
        assert b.cell.task is first
        await b.quiet()
        assert b.agent.seen == list(range(7))
        assert b.agent.most_active == 1
        assert b.cell.task is None


@pytest.mark.parametrize("mailbox", [1, 3, 16])
async def test_parked_messages_come_back_in_order_and_end_their_entries(mailbox: int) -> None:
    async with bench(mailbox) as b:
        entries = [b.deliver(9) for _ in range(20)]
        await asyncio.sleep(0)
        entries += [b.deliver(9) for _ in range(20)]  # While it drains: behind what is parked.
        await b.quiet()
        assert b.agent.seen == list(range(360))
        assert b.inbox.fetches > 1
        assert set(b.shard.done) == set(entries)
        assert (b.shard.held_bytes, [entry.parked for entry in entries]) == (0, [0] * 40)


async def test_parked_bodies_are_not_held_in_memory() -> None:
    async with bench(mailbox=4) as b:
        b.deliver(4)
        held = b.shard.held_bytes
        for _ in range(50):
            b.deliver(4)
        assert b.shard.held_bytes == held
        await b.quiet()


async def test_behind_the_lease_nothing_is_begun() -> None:
    async with bench() as b:
        b.deliver(2)
        await asyncio.sleep(0)
        b.shard.trusted_until_ns = 0
        b.deliver(5)
        await b.quiet()
        assert b.agent.seen == [0]
        assert b.waker.lost_shards == ["0"]


async def test_what_is_settled_already_is_not_handled_again() -> None:
    async with bench() as b:
        buffer = MessageBuffer()
        for number in range(4):
            buffer.add(("worker/1", "work", number, 0))
        payload = buffer.batch("p", 1)
        entry = b.shard.opened("1-0", 4, len(payload), 0)
        entry.flags[1] = 1
        entry.left = 3
        b.fleet.deliver(entry, decode_batch(payload, 4))
        await b.quiet()
        assert b.agent.seen == [0, 2, 3]
        assert entry.outcome().acked == 4


def test_bodies_stay_encoded_until_the_handler_takes_them() -> None:
    buffer = MessageBuffer()
    buffer.add(("worker/1", "work", {"any": "thing"}, 0))
    (message,) = decode_batch(buffer.batch("p", 1), 1).messages
    assert isinstance(message.body, msgspec.Raw)


async def test_what_is_delivered_while_the_worker_ends_begins_nothing() -> None:
    async with bench() as one:
        one.fleet.end()
        one.deliver(1)
        assert one.cell.task is None
        assert one.agent.seen == []
