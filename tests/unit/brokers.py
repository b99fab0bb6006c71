"""Memory brokers that misbehave on demand, and a worker's parts on one of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from swell import App
from swell.backoff import Backoff
from swell.bus.broker import Append, Appended, Delivered, Lease, Member, Settlement
from swell.bus.consumer import Consumer
from swell.bus.memory import MemoryBroker, MemoryServer
from swell.client import Client
from swell.clock import SYSTEM
from swell.codec import decode
from swell.errors import BrokerUnavailable
from swell.instruments import Recorder
from swell.keys import shard_of
from swell.priority import RANKS
from swell.wire import AgentRecord, DeadLetter, WorkerInfo
from swell_worker.host import Fleet
from swell_worker.releasing import release

NAMESPACE = "tests"
#: For leases that must not lapse while a test runs, milliseconds.
LONG_MS = 600_000
#: A wait longer than this has failed, seconds.
PATIENCE_S = 10.0
NO_WAIT = Backoff(0.0, 0.0)
MAX_DELIVERIES = 3

_T = TypeVar("_T")


class FaultyBroker(MemoryBroker):
    """A memory broker whose calls meet faults, each named by the method.

    Attributes:
        faults: for each method what its next calls meet, in order: an error raised before anything is done, "lost" for
            an answer lost after it was done, None for nothing.
        gates: for each method an event that its calls wait for before they do anything.
        calls: how often each method was called.
        settled: all settlements handed in, in the order of the calls.
    """

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server, NAMESPACE)
        self.faults: dict[str, list[Exception | str | None]] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.calls: dict[str, int] = {}
        self.settled: list[list[Settlement]] = []
        self._news = asyncio.Event()

    async def called(self, method: str, times: int) -> None:
        """Return when a method has been called so many times in all."""
        async with asyncio.timeout(PATIENCE_S):
            while self.calls.get(method, 0) < times:
                self._news.clear()
                await self._news.wait()

    async def _through(self, method: str, call: Awaitable[_T]) -> _T:
        self.calls[method] = self.calls.get(method, 0) + 1
        self._news.set()
        try:
            if method in self.gates:
                await self.gates[method].wait()
            faults = self.faults.get(method)
            fault = faults.pop(0) if faults else None
            if isinstance(fault, Exception):
                raise fault
        except BaseException:
            call.close()  # type: ignore[attr-defined]
            raise
        answer = await call
        if fault == "lost":
            raise BrokerUnavailable(f"the answer of {method} was lost")
        return answer

    async def append(self, producer: str, appends: Sequence[Append], max_depth: int) -> list[Appended]:
        return await self._through("append", super().append(producer, appends, max_depth))

    async def read(self, owner: str, shards: Sequence[str], count: int, block_ms: int) -> list[Delivered]:
        return await self._through("read", super().read(owner, shards, count, block_ms))

    async def pending(self, owner: str, shard: str, after: str, count: int) -> list[Delivered]:
        return await self._through("pending", super().pending(owner, shard, after, count))

    async def fetch(self, shard: str, ids: Sequence[str]) -> list[Delivered]:
        return await self._through("fetch", super().fetch(shard, ids))

    async def wake(self) -> None:
        await self._through("wake", super().wake())

    async def settle(
        self, settlements: Sequence[Settlement], replies: Mapping[str, bytes] | None = None
    ) -> tuple[list[bool], int]:
        self.settled.append(list(settlements))
        return await self._through("settle", super().settle(settlements, replies))

    async def renew(self, leases: Sequence[Lease], lease_ms: int) -> list[bool]:
        return await self._through("renew", super().renew(leases, lease_ms))

    async def release(self, lease: Lease) -> bool:
        return await self._through("release", super().release(lease))

    async def trial(self, lease: Lease, id: str, index: int, *, begin: bool = True) -> int:
        return await self._through("trial", super().trial(lease, id, index, begin=begin))

    async def heartbeat(self, role: str, process: str, ttl_ms: int, info: bytes) -> list[Member]:
        return await self._through("heartbeat", super().heartbeat(role, process, ttl_ms, info))

    async def open_replies(self, process: str, ttl_ms: int) -> bool:
        return await self._through("open_replies", super().open_replies(process, ttl_ms))

    async def read_replies(self, process: str, after: str, block_ms: int) -> list[tuple[str, bytes]]:
        return await self._through("read_replies", super().read_replies(process, after, block_ms))


class MovableClock:
    """The system's clock, which can be moved ahead: everything that lapses, lapses."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def now_us(self) -> int:
        return SYSTEM.now_us() + int(self._ahead_s * 1e6)

    def monotonic(self) -> float:
        return SYSTEM.monotonic() + self._ahead_s

    def pass_ms(self, milliseconds: int) -> None:
        self._ahead_s += milliseconds / 1000


class WorkerRig:
    """A worker's parts, as its composition root wires them.

    Attributes:
        broker: its connection, which may be told to misbehave.
    """

    def __init__(self, rig: Rig, process: str, app: App, mailbox: int, lease_ms: int) -> None:
        self.process = process
        self.broker = FaultyBroker(rig.server)
        self.recorder = Recorder(process)
        self.client = Client(self.broker, process, 1_000_000, self.recorder)
        self.client.shards = rig.shards
        self.fleet = Fleet(app, self.broker, self.client, self.recorder, mailbox=mailbox, buffer=100_000)
        info = WorkerInfo(process, "worker", os.getpid(), "here", types=sorted(app.types), started_ms=len(rig.workers))
        names = [str(shard) for shard in range(rig.shards)]
        self.consumer = Consumer(
            self.broker,
            info,
            names,
            self.fleet,
            lease_ms=lease_ms,
            recorder=self.recorder,
            max_deliveries=MAX_DELIVERIES,
            give_up=self.fleet.poisoned,
            ranks=RANKS,
        )
        self.stop = asyncio.Event()
        self.ended: asyncio.Task[None] | None = None

    async def run(self, drain_s: float) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self.fleet.attach(self.consumer, group)
                self.client.start(group)
                self.fleet.oversight.attach(self.consumer, group)
                await self.consumer.run(self.stop, drain_s)
                self.fleet.end()
                await self.client.finish(1.0)
        finally:
            self.fleet.over()

    async def leave(self) -> None:
        """Hand everything over and end."""
        assert self.ended is not None
        self.stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await self.ended

    async def die(self) -> None:
        """End without a word, as a killed process does; its leases stay until they lapse."""
        assert self.ended is not None
        self.ended.cancel()
        await asyncio.wait({self.ended})


class Rig:
    """A namespace in memory, a client, and workers as the test starts them."""

    def __init__(self, shards: int) -> None:
        self.clock = MovableClock()
        self.server = MemoryServer(self.clock)
        self.shards = shards
        self.broker = FaultyBroker(self.server)
        self.client = Client(self.broker, "client", 1_000_000, Recorder("client"))
        self.client.shards = shards
        self.workers: list[WorkerRig] = []
        self.apps: list[App] = []

    async def start(self, app: App, *, mailbox: int = 1024, lease_ms: int = LONG_MS, drain_s: float = 5.0) -> WorkerRig:
        worker = WorkerRig(self, f"worker-{len(self.workers)}", app, mailbox, lease_ms)
        self.workers.append(worker)
        self.apps.append(app)
        worker.ended = asyncio.ensure_future(worker.run(drain_s))
        return worker

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Let the loop turn until the condition holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():
                for worker in self.workers:
                    if worker.ended is not None and worker.ended.done() and not worker.ended.cancelled():
                        worker.ended.result()
                await asyncio.sleep(0)

    async def settled(self) -> None:
        """Return when nothing is left in any shard and all accounts balance."""

        async def empty() -> bool:
            return not any([(await self.broker.ledger(str(shard))).depth for shard in range(self.shards)])

        await self.until(empty)
        for shard in range(self.shards):
            assert (await self.broker.ledger(str(shard))).balanced

    async def spawn(self, *ids: str) -> None:
        for id in ids:
            await self.client.request(str(shard_of(id, self.shards)), id, "$spawn", {"plan": "p"}, PATIENCE_S)

    async def record(self, id: str) -> AgentRecord | None:
        record = await self.broker.record(str(shard_of(id, self.shards)), id)
        return None if record is None else decode(record, AgentRecord)

    async def letters(self) -> list[DeadLetter]:
        found = [await self.broker.dead(str(shard), 1000) for shard in range(self.shards)]
        return [decode(letter, DeadLetter) for of_shard in found for _, letter in of_shard]

    async def owners(self) -> dict[str, list[str]]:
        """The shards of each owner."""
        owners: dict[str, list[str]] = {}
        for state in await self.broker.leases([str(shard) for shard in range(self.shards)]):
            owners.setdefault(state.owner, []).append(state.shard)
        return owners


@asynccontextmanager
async def rig_of(shards: int = 1) -> AsyncIterator[Rig]:
    rig = Rig(shards)
    await rig.broker.open(shards)
    async with asyncio.timeout(3 * PATIENCE_S), asyncio.TaskGroup() as group:
        rig.client.start(group)
        try:
            yield rig
        finally:
            for worker in rig.workers:
                if worker.ended is not None and not worker.ended.done():
                    await worker.die()
            for app in rig.apps:
                await release(app)
            await rig.client.finish(1.0)
