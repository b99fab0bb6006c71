"""A fleet in memory: the real manager, the real workers, and the broker that passes the conformance suite."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from swell.app import App, import_here
from swell.bus.memory import MemoryBroker
from swell.bus.memory_server import MemoryServer
from swell.client import Client, Plan
from swell.config import Settings
from swell.instruments import Recorder
from swell.letter_view import LetterDetail, detail
from swell.wire import WorkerInfo

NAMESPACE = "test"
#: How long `quiet` waits unless told otherwise, seconds.
QUIET_WITHIN_S = 3600.0
#: Dead letters of a shard that `dead` reads.
_LETTERS = 10_000
#: Messages of a failure that says what was unsettled.
_SHOWN = 10


class _Process(NamedTuple):
    """What would be a process, were it not in memory."""

    task: asyncio.Task[None]
    stop: asyncio.Event
    broker: MemoryBroker

    async def end(self) -> None:
        """Let it finish what runs."""
        self.stop.set()
        await asyncio.wait({self.task})


class Fleet:
    """An app that runs in memory.

    Attributes:
        client: a client of it.
        workers: the names of the workers that live, the oldest first.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._server = MemoryServer()
        self._broker = MemoryBroker(self._server, NAMESPACE)
        self._group = asyncio.TaskGroup()
        self._running: dict[str, _Process] = {}
        self._started = 0
        self.client = Client(self._broker, "test", settings.max_depth, Recorder("test"))
        self.client.shards = settings.shards

    @property
    def workers(self) -> list[str]:
        """The names of the workers that live, the oldest first."""
        return [name for name in self._running if name != "manager"]

    async def spawn(self, type: str, **plan: Any) -> Plan:
        """Spawn agents and wait until they are ready. See `Client.spawn`.

        Raises:
            PlanAborted: not all of them started.
        """
        spawned = await self.client.spawn(type, **plan)
        await spawned.wait()
        return spawned

    async def start_worker(self) -> str:
        """Start one more worker; returns its name. It takes its share of the shards at once."""
        self._started += 1
        name = f"worker-{self._started}"
        broker = MemoryBroker(self._server, NAMESPACE)
        run = import_here("swell_worker.in_memory").run
        stop = asyncio.Event()
        info = self._info(name, "worker", sorted(self._app.types))
        task = self._group.create_task(run(self._app, broker, info, self._settings, stop))
        self._running[name] = _Process(task, stop, broker)
        return name

    async def stop_worker(self, name: str = "") -> None:
        """Stop a worker (the oldest, unless named) as SIGTERM does: it finishes what runs and hands its agents over.

        Raises:
            KeyError: no worker of that name lives.
        """
        await self._running.pop(name or self.workers[0]).end()

    async def kill_worker(self, name: str = "") -> None:
        """End a worker (the oldest, unless named) as SIGKILL does: its agents are taken over when its leases lapse.

        Nothing that it would still write or send is heard, also of what its handlers do in `finally`; locks that it
        held are free when their time to live is over.

        Raises:
            KeyError: no worker of that name lives.
        """
        killed = self._running.pop(name or self.workers[0])
        killed.broker.sever()
        killed.task.cancel()
        await asyncio.wait({killed.task})

    async def quiet(self, within: float = QUIET_WITHIN_S) -> None:
        """Return when no message is unsettled: all that was sent, and what came of it, is handled or dead.

        What waits for its time (`delay`, `at`, schedules) is not waited for: sleep first, which in virtual time costs
        nothing.

        Args:
            within: seconds, virtual ones in virtual time.

        Raises:
            AssertionError: messages were still unsettled; the text names where, and the agents that are busy.
        """
        until = time.monotonic() + within
        wait_s = 0.001
        while any(ledger.depth for ledger in await self.client.ledger()):
            if time.monotonic() > until:
                raise AssertionError(await self._unsettled(within))
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, 1.0)

    async def dead(self) -> list[LetterDetail]:
        """All dead letters: to whom, what, why, with the traceback."""
        found: list[LetterDetail] = []
        for shard in self.client.shard_names:
            found += [detail(shard, place, letter) for place, letter in await self._broker.dead(shard, _LETTERS)]
        return found

    async def _unsettled(self, within: float) -> str:
        ledgers = [ledger for ledger in await self.client.ledger() if ledger.depth]
        where = ", ".join(f"{ledger.depth:,} in shard {ledger.shard}" for ledger in ledgers)
        busy = [view for view in await self.client.agents() if view.state == "working"][:_SHOWN]
        who = ", ".join(f"{view.id} ({view.queued} waiting)" for view in busy) or "none"
        return f"not quiet within {within:g} s: {where} unsettled; agents at work: {who}; workers: {self.workers}"

    def _info(self, name: str, role: str, types: list[str]) -> WorkerInfo:
        return WorkerInfo(name, role, os.getpid(), "memory", types=types, started_ms=self._started)

    async def _begin(self, workers: int) -> None:
        await self._broker.open(self._settings.shards)
        self.client.start(self._group)
        run = import_here("swell_manager.in_memory").run
        stop = asyncio.Event()
        broker = MemoryBroker(self._server, NAMESPACE)
        task = self._group.create_task(run(broker, self._info("manager", "manager", []), self._settings, stop))
        self._running["manager"] = _Process(task, stop, broker)
        for _ in range(workers):
            await self.start_worker()

    async def _end(self) -> None:
        for name in [*self.workers, "manager"]:
            await self._running.pop(name).end()
        await self.client.finish()


@asynccontextmanager
async def running(app: App, *, workers: int = 1, **settings: Any) -> AsyncIterator[Fleet]:
    """Run an app in memory, in this process and this loop.

    Args:
        app: its agent types are what can be spawned.
        workers: how many; each hosts a share of the agents.
        settings: fields of `swell.config.Settings` that are other than the defaults: `shards`, `lease_ms`, `max_depth`.

    Raises:
        TypeError: there is no such setting.
    """
    fleet = Fleet(app, replace(Settings(), **settings))
    failed: BaseException | None = None
    try:
        async with fleet._group:
            await fleet._begin(workers)
            try:
                yield fleet
            except BaseException as error:  # noqa: BLE001 - raised below, outside the group, which would wrap it
                failed = error
            await fleet._end()
    finally:
        # Not by each worker as it ends: here they share it.
        await import_here("swell_worker.releasing").release(app)
    if failed is not None:
        raise failed
