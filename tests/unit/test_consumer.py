"""A share of the shards: entries reach the host in order, each once, through faults, losses and hand-overs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from swell.bus import consumer as module
from swell.bus import leases, settler
from swell.bus.broker import Append, Delivered, Inheritance, Lease
from swell.bus.consumer import Consumer
from swell.bus.entry import Entry
from swell.bus.memory import MemoryServer
from swell.bus.shard import OwnedShard
from swell.codec import MessageBuffer, decode
from swell.errors import BrokerUnavailable
from swell.instruments import Recorder
from swell.wire import Batch, DeadLetter, WorkerInfo
from tests.unit.brokers import LONG_MS, NO_WAIT, PATIENCE_S, FaultyBroker, MovableClock


class NotingHost:
    """Notes the bodies it is given; ends them at once unless it holds."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.entries: list[Entry] = []
        self.holds = False
        self.has_room = True
        self.lost_shards: list[str] = []
        self.finish = asyncio.Event()
        self.finish.set()
        self.news = asyncio.Event()

    async def opened(self, shard: OwnedShard, inherited: Inheritance) -> None:
        self.news.set()

    def deliver(self, entry: Entry, batch: Batch) -> None:
        self.entries.append(entry)
        for index, message in enumerate(batch.messages):
            if entry.flags[index]:
                continue
            self.seen.append(decode(message.body, int))
            if not self.holds:
                entry.ack(index)
        self.news.set()

    async def closing(self, shard: OwnedShard) -> None:
        await self.finish.wait()

    def lost(self, shard: OwnedShard) -> None:
        self.lost_shards.append(shard.name)
        self.news.set()

    def room(self, rank: int) -> bool:
        return self.has_room

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.news.clear()
                await self.news.wait()


class LateAnswers(FaultyBroker):
    """Its answers to `pending` are made, then held until `late` is set, unless they are empty."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.answered = asyncio.Event()
        self.late = asyncio.Event()

    async def pending(self, owner: str, shard: str, after: str, count: int) -> list[Delivered]:
        answer = await super().pending(owner, shard, after, count)
        if answer:
            self.answered.set()
            await self.late.wait()
        return answer


class Process:
    """One consumer with its host."""

    def __init__(self, bench: Bench, name: str, broker: FaultyBroker, shards: int, lease_ms: int) -> None:
        self.name = name
        self.broker = broker
        self.host = NotingHost()
        self.recorder = Recorder(name)
        info = WorkerInfo(name, "worker", os.getpid(), "here", started_ms=len(bench.processes))
        names = [str(shard) for shard in range(shards)]
        self.consumer = Consumer(broker, info, names, self.host, lease_ms=lease_ms, recorder=self.recorder)
        self.stop = asyncio.Event()
        self.ended: asyncio.Task[None] | None = None

    async def leave(self) -> None:
        assert self.ended is not None
        self.stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait({self.ended})
        self.ended.result()


class Bench:
    """A server in memory, its sender, and processes as the test starts them."""

    def __init__(self) -> None:
        self.clock = MovableClock()
        self.server = MemoryServer(self.clock)
        self.broker = FaultyBroker(self.server)
        self.processes: list[Process] = []
        self._seq: dict[str, int] = {}
        self._number = 0

    def start(
        self, *, shards: int = 1, lease_ms: int = LONG_MS, drain_s: float = 5.0, broker: FaultyBroker | None = None
    ) -> Process:
        process = Process(self, f"p{len(self.processes)}", broker or FaultyBroker(self.server), shards, lease_ms)
        self.processes.append(process)
        process.ended = asyncio.ensure_future(process.consumer.run(process.stop, drain_s))
        return process

    async def send(self, entries: int, *, shard: str = "0", count: int = 3) -> None:
        """Append so many entries of `count` messages, whose bodies count on."""
        for _ in range(entries):
            buffer = MessageBuffer()
            for _ in range(count):
                buffer.add(("echo/1", "echo", self._number, 0))
                self._number += 1
            seq = self._seq[shard] = self._seq.get(shard, 0) + 1
            batch = Append(shard, seq, count, buffer.batch("sender", seq))
            (answer,) = await self.broker.append("sender", [batch], 1_000_000)
            assert answer.status == "ok"

    async def until_empty(self, shard: str = "0") -> None:
        async with asyncio.timeout(PATIENCE_S):
            while (await self.broker.ledger(shard)).entries:
                await asyncio.sleep(0)
        assert (await self.broker.ledger(shard)).balanced

    async def shares(self, shards: int) -> dict[str, int]:
        owners = [state.owner for state in await self.broker.leases([str(shard) for shard in range(shards)])]
        return {owner: owners.count(owner) for owner in owners}

    async def until_shared(self, shards: int, expected: Sequence[int]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while sorted((await self.shares(shards)).values()) != sorted(expected):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def bench_of() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.broker.open(8)
    try:
        yield bench
    finally:
        for process in bench.processes:
            if process.ended is not None and not process.ended.done():
                process.ended.cancel()
                await asyncio.wait({process.ended})


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(settler, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(leases, "_AGAIN", NO_WAIT)


async def test_entries_reach_the_host_in_order_and_are_settled() -> None:
    async with bench_of() as b:
        process = b.start()
        await b.send(100)
        await b.until_empty()
        assert process.host.seen == list(range(300))


async def test_what_came_in_a_reply_that_was_lost_is_delivered_in_order_and_once() -> None:
    async with bench_of() as b:
        process = b.start()
        process.broker.faults["read"] = ["lost", None, "lost", BrokerUnavailable("away"), "lost"]
        process.broker.faults["pending"] = [BrokerUnavailable("away"), "lost"]
        await b.send(100)
        await b.until_empty()
        assert process.host.seen == list(range(300))


async def test_an_entry_that_is_settled_while_its_reader_asks_what_is_pending_is_not_handled_again() -> None:
    async with bench_of() as b:
        broker = LateAnswers(b.server)
        process = b.start(broker=broker)
        process.host.holds = True
        await b.send(1)
        await process.host.until(lambda: len(process.host.seen) == 3)
        # The next read fails; what is pending is told while the entry is open, and arrives when it is settled.
        broker.faults["read"] = [BrokerUnavailable("away")]
        await broker.wake()
        await broker.answered.wait()
        (entry,) = process.host.entries
        for index in range(3):
            entry.ack(index)
        await b.until_empty()
        await process.consumer.settler.flush()
        broker.late.set()
        await b.send(1)
        await process.host.until(lambda: len(process.host.seen) >= 6)
        assert process.host.seen == [0, 1, 2, 3, 4, 5]


async def test_a_shard_whose_group_is_gone_is_lost_and_taken_again() -> None:
    async with bench_of() as b:
        process = b.start()
        await b.send(1)
        await b.until_empty()
        # A server that was flushed: the lease and the group are gone.
        await b.broker.release(process.consumer.owned["0"].lease)
        await b.send(1)
        await process.host.until(lambda: bool(process.host.lost_shards))
        await b.until_empty()
        assert process.host.seen == [0, 1, 2, 3, 4, 5]


async def test_nothing_is_read_while_there_is_no_room() -> None:
    async with bench_of() as b:
        process = b.start()
        await b.send(1)
        await b.until_empty()
        process.host.has_room = False
        await process.broker.wake()
        for _ in range(20):
            await asyncio.sleep(0)
        await b.send(3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert process.host.seen == [0, 1, 2]
        process.host.has_room = True
        process.consumer.resume()
        await b.until_empty()
        assert process.host.seen == list(range(12))


async def test_what_is_no_batch_is_dead_and_its_neighbours_are_handled() -> None:
    async with bench_of() as b:
        process = b.start()
        await b.send(1)
        b.server.inject("tests", "0", b"\xff no batch")
        (answer,) = await b.broker.append("bad", [Append("0", 1, 7, b"\x90")], 1_000_000)
        assert answer.status == "ok"
        await b.send(1)
        await b.until_empty()
        assert process.host.seen == [0, 1, 2, 3, 4, 5]
        letters = [decode(letter, DeadLetter) for _, letter in await b.broker.dead("0", 10)]
        assert [letter.kind for letter in letters] == ["malformed", "malformed"]
        assert (await b.broker.ledger("0")).dead == 7


async def test_behind_the_lease_nothing_is_delivered() -> None:
    async with bench_of() as b:
        process = b.start()
        await b.send(1)
        await b.until_empty()
        process.consumer.owned["0"].trusted_until_ns = 0  # As when the process slept through it.
        await b.send(1)
        await process.host.until(lambda: bool(process.host.lost_shards))
        assert process.host.seen[:3] == [0, 1, 2]
        await b.until_empty()
        assert process.host.seen == [0, 1, 2, 3, 4, 5]


async def test_a_hand_over_goes_on_when_the_read_under_way_cannot_be_woken() -> None:
    async with bench_of() as b:
        first = b.start()
        await b.send(1)
        await b.until_empty()
        first.broker.faults["wake"] = [BrokerUnavailable("away")]
        await first.leave()
        assert await b.shares(1) == {"": 1}
        assert first.host.lost_shards == []


async def test_a_shard_that_is_taken_between_two_reads_is_in_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_MS", int(10_000 * PATIENCE_S))
    async with bench_of() as b:
        process = b.start(shards=2)
        asked = process.broker.gates["pending"] = asyncio.Event()
        await process.host.until(lambda: len(process.consumer.owned) == 2)
        asked.set()
        await b.send(1, shard="1")
        await b.until_empty("1")


@pytest.mark.parametrize("method", ["heartbeat", "settle", "release", "renew"])
async def test_stopping_ends_within_its_deadline_also_when_the_server_is_away(method: str) -> None:
    async with bench_of() as b:
        process = b.start(drain_s=0.05)
        await b.send(1)
        await b.until_empty()
        process.host.holds = True
        await b.send(1)
        await process.host.until(lambda: len(process.host.seen) == 6)
        process.broker.gates[method] = asyncio.Event()
        process.host.entries[-1].ack(0)
        await process.leave()


async def test_a_host_that_does_not_finish_is_reported_and_told_that_the_shard_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with bench_of() as b:
        process = b.start(drain_s=0.05)
        process.host.holds = True
        process.host.finish.clear()
        await b.send(1)
        await process.host.until(lambda: len(process.host.seen) == 3)
        await process.leave()
        assert process.host.lost_shards == ["0"]
        (record,) = [record for record in caplog.records if "drain ran out of time" in record.message]
        assert record.__dict__["entries"] == {"0": 1}


async def test_a_lease_that_another_took_is_lost_and_what_was_held_is_not_written() -> None:
    async with bench_of() as b:
        process = b.start()
        process.host.holds = True
        await b.send(1)
        await process.host.until(lambda: len(process.host.seen) == 3)
        await b.broker.release(process.consumer.owned["0"].lease)
        assert isinstance(await b.broker.acquire("0", "another", LONG_MS), Lease)
        for index in range(3):
            process.host.entries[0].ack(index)
        await process.host.until(lambda: bool(process.host.lost_shards))
        ledger = await b.broker.ledger("0")
        assert (ledger.acked, ledger.depth) == (0, 3)
