"""A namespace in memory for the manager's tests: managers, a client, and a worker whose answers the test decides."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from swell.bus.broker import Inheritance
from swell.bus.consumer import Consumer
from swell.bus.entry import Entry
from swell.bus.memory import MemoryBroker
from swell.bus.memory_server import MemoryServer
from swell.bus.shard import OwnedShard
from swell.client import Client
from swell.codec import decode, encode, raw
from swell.instruments import Recorder
from swell.keys import CONTROL
from swell.priority import RANKS
from swell.wire import (
    DONE,
    FAILED,
    LIVE,
    NIL,
    SPAWN,
    TERMINATE,
    AgentRecord,
    Batch,
    Failure,
    LiveAnswer,
    Message,
    SpawnAgent,
    Spawned,
    TerminateAgent,
    WorkerInfo,
)
from swell_manager.control import Control

SHARDS = 2
LEASE_MS = 60_000


class ScriptedWorker:
    """A worker that starts agents as the test says: at once, unless their key `fails`, or is `held`."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.holding: set[str] = set()
        self.held: list[tuple[Entry, int, Message]] = []
        self.starts: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self.holds = asyncio.Event()
        self.agents: dict[str, AgentRecord] = {}
        self.consumer: Consumer | None = None

    async def opened(self, shard: OwnedShard, inherited: Inheritance) -> None:
        pass

    async def closing(self, shard: OwnedShard) -> None:
        pass

    def lost(self, shard: OwnedShard) -> None:
        pass

    def room(self, rank: int) -> bool:
        return True

    def deliver(self, entry: Entry, batch: Batch) -> None:
        for index, message in enumerate(batch.messages):
            if message.name == SPAWN:
                self._spawn(entry, index, message)
            elif message.name == TERMINATE:
                self._terminate(entry, index, message)
            elif message.name == LIVE:
                self._answer(entry, index, message, DONE, LiveAnswer("scripted", {}))

    def release(self) -> None:
        """Start all that were held."""
        held, self.held = self.held, []
        self.holding.clear()
        for entry, index, message in held:
            self._spawn(entry, index, message)

    def _spawn(self, entry: Entry, index: int, message: Message) -> None:
        request = decode(message.body, SpawnAgent)
        id = message.to
        type, _, key = id.partition("/")
        there = self.agents.get(id)
        if there is not None and there.state == "ready":
            if there.plan == request.plan:
                self._answer(entry, index, message, DONE, Spawned(0.0, already=True))
            else:
                self._answer(entry, index, message, FAILED, Failure("already_exists", f"{id} exists", id))
        elif key in self.holding:
            self._keep(entry, id, AgentRecord(type, key, "spawning", request.plan))
            self.held.append((entry, index, message))
            self.holds.set()
        elif key in self.failing:
            self._keep(entry, id, AgentRecord(type, key, "failed", request.plan))
            self._answer(entry, index, message, FAILED, Failure("start_failed", f"{key} cannot start", id))
        else:
            self.starts[id] = self.starts.get(id, 0) + 1
            self._keep(entry, id, AgentRecord(type, key, "ready", request.plan))
            self._answer(entry, index, message, DONE, Spawned(0.001))

    def _terminate(self, entry: Entry, index: int, message: Message) -> None:
        record = self.agents.get(message.to)
        if record is None or record.state == "stopped":
            self._answer(entry, index, message, FAILED, Failure("unknown_agent", f"no {message.to}", message.to))
            return
        request = TerminateAgent() if message.body == NIL else decode(message.body, TerminateAgent)
        if request.plan and request.plan != record.plan:
            failure = Failure("already_exists", f"{message.to} is of plan {record.plan}", message.to)
            self._answer(entry, index, message, FAILED, failure)
            return
        self.ends[message.to] = self.ends.get(message.to, 0) + 1
        self._keep(entry, message.to, AgentRecord(record.type, record.key, "stopped", record.plan))
        self.held = [held for held in self.held if held[2].to != message.to]
        self._answer(entry, index, message, DONE, None)

    def _keep(self, entry: Entry, id: str, record: AgentRecord) -> None:
        self.agents[id] = record
        entry.shard.record(id, encode(record))

    def _answer(self, entry: Entry, index: int, message: Message, status: int, body: Any) -> None:
        assert self.consumer is not None
        entry.ack(index)
        self.consumer.settler.replies.add(message.reply_to, message.call, status, raw(body))

    def in_state(self, state: str) -> set[str]:
        return {id for id, record in self.agents.items() if record.state == state}


class WatchedControl(Control):
    """Tells when it leads."""

    def __init__(self, client: Client, recorder: Recorder) -> None:
        super().__init__(client, recorder)
        self.led = asyncio.Event()

    async def opened(self, shard: OwnedShard, inherited: Inheritance) -> None:
        await super().opened(shard, inherited)
        self.led.set()


class Fleet:
    """A namespace in memory: a worker, managers as the test starts them, and a client."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.server = MemoryServer()
        self.group = group
        self.worker = ScriptedWorker()
        self.stops: list[Callable[[], Any]] = []
        self.leaders: dict[str, asyncio.Event] = {}

    async def client_of(self, process: str) -> Client:
        broker = MemoryBroker(self.server, "test")
        client = Client(broker, process, 65_536, Recorder(process))
        client.shards = await broker.open(SHARDS)
        client.start(self.group)
        return client

    async def start_worker(self, types: tuple[str, ...] = ("echo",)) -> None:
        broker = MemoryBroker(self.server, "test")
        await broker.open(SHARDS)
        info = WorkerInfo("worker-1", "worker", os.getpid(), "here", types=list(types))
        shards = [str(shard) for shard in range(SHARDS)]
        recorder = Recorder("worker-1")
        consumer = Consumer(broker, info, shards, self.worker, lease_ms=LEASE_MS, recorder=recorder, ranks=RANKS)
        self.worker.consumer = consumer
        self.stops.append(self._run(consumer))

    async def start_manager(self, process: str) -> Callable[[], Any]:
        """Start a manager; returns what hands its shard over and waits until that is done."""
        client = await self.client_of(process)
        control = WatchedControl(client, client.recorder)
        self.leaders[process] = control.led
        info = WorkerInfo(process, "manager", os.getpid(), "here")
        consumer = Consumer(client.broker, info, [CONTROL], control, lease_ms=LEASE_MS, recorder=client.recorder)
        control.attach(consumer, self.group)
        stop_consumer = self._run(consumer)

        async def stop() -> None:
            await stop_consumer()
            await client.finish()

        self.stops.append(stop)
        return stop

    def _run(self, consumer: Consumer) -> Callable[[], Any]:
        stop = asyncio.Event()
        task = self.group.create_task(consumer.run(stop, 5.0))

        async def ended() -> None:
            stop.set()
            await asyncio.wait({task})

        return ended


@asynccontextmanager
async def fleet_of(*, worker: bool = True) -> AsyncIterator[tuple[Fleet, Client]]:
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        fleet = Fleet(group)
        if worker:
            await fleet.start_worker()
        await fleet.start_manager("manager-b")
        client = await fleet.client_of("client")
        yield fleet, client
        for stop in reversed(fleet.stops):
            await stop()
        await client.finish()
