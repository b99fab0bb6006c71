"""The host of the shard `metrics`: every report counts exactly once, whatever dies when; what is no report is dead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from swell.bus.broker import Append, Delivered, Settlement
from swell.bus.consumer import Consumer
from swell.bus.memory import MemoryBroker, MemoryServer
from swell.codec import MessageBuffer, decode, encode
from swell.instruments import Recorder
from swell.keys import METRICS
from swell.wire import MEASURE, TO_METRICS, DeadLetter, Measurements, WorkerInfo
from swell_metrics.collector import Totals
from swell_metrics.host import TOTALS, MetricsHost
from tests.conformance.backends import FakeClock

LEASE_MS = 60_000
ROOM = 1_000_000
#: More than twice the entries that one settle call may carry, so that a backlog takes several calls.
BACKLOG = 1200


def report(process: str = "worker-1", **counts: int) -> Measurements:
    return Measurements(process, {name: {"echo": count} for name, count in counts.items()})


class Wire:
    """A server in memory with reports in the inbox of the shard `metrics`, one entry each."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.server = MemoryServer(self.clock)
        self._seq = 0

    async def put(self, *messages: tuple[str, Any]) -> None:
        """Append one entry of (name, body) messages."""
        buffer = MessageBuffer()
        for name, body in messages:
            buffer.add((TO_METRICS, name, body, self.clock.now_us(), "worker-1"))
        self._seq += 1
        batch = Append(METRICS, self._seq, len(messages), buffer.batch("worker-1", self._seq))
        (appended,) = await MemoryBroker(self.server, "test").append("worker-1", [batch], ROOM)
        assert appended.status == "ok"

    async def totals(self) -> Totals:
        record = await MemoryBroker(self.server, "test").record(METRICS, TOTALS)
        return decode(record, Totals) if record is not None else Totals()


class Settling(MemoryBroker):
    """Tells when the inbox is empty."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server, "test")
        self.empty = asyncio.Event()

    async def settle(
        self, settlements: Sequence[Settlement], replies: Mapping[str, bytes] | None = None
    ) -> tuple[list[bool], int]:
        answer = await super().settle(settlements, replies)
        if not (await self.ledger(METRICS)).depth:
            self.empty.set()
        return answer


class Dying(MemoryBroker):
    """The process dies behind its second settle, having read the whole backlog before its first one was answered."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server, "test")
        self.died = asyncio.Event()
        self._read_all = asyncio.Event()
        self._read = 0
        self._settles = 0

    async def read(self, owner: str, shards: Sequence[str], count: int, block_ms: int) -> list[Delivered]:
        delivered = await super().read(owner, shards, count, block_ms)
        self._read += len(delivered)
        return delivered

    async def settle(
        self, settlements: Sequence[Settlement], replies: Mapping[str, bytes] | None = None
    ) -> tuple[list[bool], int]:
        while self._read < BACKLOG:
            await asyncio.sleep(0)
        self._settles += 1
        if self._settles > 2:
            self.died.set()
            await asyncio.Event().wait()
        return await super().settle(settlements, replies)


@contextlib.asynccontextmanager
async def running(broker: MemoryBroker, process: str) -> AsyncIterator[MetricsHost]:
    """A metrics service's consumer until the block ends, then killed: nothing is handed over."""
    recorder = Recorder(process)
    host = MetricsHost(recorder)
    info = WorkerInfo(process, "metrics", 1, "here")
    consumer = Consumer(broker, info, [METRICS], host, lease_ms=LEASE_MS, recorder=recorder)
    task = asyncio.ensure_future(consumer.run(asyncio.Event(), 1.0))
    try:
        yield host
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def drained(wire: Wire, process: str = "metrics-2") -> Totals:
    """The totals behind everything in the inbox, merged by a new owner."""
    wire.clock.us += LEASE_MS * 2000
    broker = Settling(wire.server)
    async with running(broker, process):
        await broker.empty.wait()
    return await wire.totals()


async def test_reports_add_up() -> None:
    wire = Wire()
    await wire.put((MEASURE, report(handled=3)), (MEASURE, report("worker-2", handled=4, dead=1)))
    await wire.put((MEASURE, report(handled=5)))
    assert (await drained(wire)).counts == {"handled": {"echo": 12}, "dead": {"echo": 1}}


async def test_a_kill_in_the_middle_of_a_backlog_counts_nothing_twice_and_loses_nothing() -> None:
    wire = Wire()
    for _ in range(BACKLOG):
        await wire.put((MEASURE, report(handled=1)))
    dying = Dying(wire.server)
    async with running(dying, "metrics-1"):
        await dying.died.wait()
    ledger = await dying.ledger(METRICS)
    assert 0 < ledger.depth < BACKLOG
    assert (await drained(wire)).counts == {"handled": {"echo": BACKLOG}}


async def test_what_is_no_report_is_a_dead_letter_and_its_neighbours_count() -> None:
    wire = Wire()
    await wire.put((MEASURE, report(handled=1)), (MEASURE, {"process": 5}), ("review", None), (MEASURE, report(dead=2)))
    totals = await drained(wire)
    letters = [decode(one, DeadLetter) for _, one in await MemoryBroker(wire.server, "test").dead(METRICS, 10)]
    assert totals.counts == {"handled": {"echo": 1}, "dead": {"echo": 2}}
    assert {letter.name for letter in letters} == {MEASURE, "review"}
    assert all(letter.reason for letter in letters)


async def test_totals_of_a_release_that_kept_less_are_taken_over() -> None:
    assert decode(encode({"counts": {"handled": {"echo": 1}}}), Totals).counts == {"handled": {"echo": 1}}
