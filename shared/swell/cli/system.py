"""The whole system on one machine: the server, the services, and their order.

    claim directory -> server -> manager, metrics, workers -> all ready -> ... stop ...
                                                 manager -> workers -> metrics -> server

A service or a server that ends by itself is started again. Before all are ready nothing is: an early end is an error.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from swell.bus.redis import RedisBroker
from swell.cli.probe import readyz, until_ready
from swell.cli.state import UpState, remove_state, write_state
from swell.cli.target import advised
from swell.config import LOOPBACK, Settings
from swell.data_directory import Claim, claim, last_lines, port_free
from swell.embedded import EmbeddedServer
from swell.errors import BrokerError, ConfigError, SwellError
from swell.supervise import RESTART, Child, Service

#: All services are ready by then, seconds; a shard whose owner was killed is free after its lease only.
READY_TIMEOUT_S = 60.0
#: A start that takes longer is told of, seconds.
SILENT_S = 5.0
#: What a service gets beyond its own `drain_s` before it is killed, seconds.
DRAIN_MARGIN_S = 3.0
MANAGER_PORT, METRICS_PORT, WORKER_PORT = 8700, 8701, 8702


class Observer(Protocol):
    """Who is told what happens."""

    def ready(self, state: UpState) -> None:
        """Everything is ready."""
        ...

    def note(self, text: str) -> None:
        """Something that users should know: a restart, a port that is not the usual one."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `swell up` shall run.

    Attributes:
        settings: of all services; `redis` is replaced if the server is ours.
        workers: how many, at least 1.
        embedded: whether we bring the server.
        directory: the data directory.
        port: the manager's port if it must be that one.
        began: when the command began, on the monotonic clock.
    """

    settings: Settings
    workers: int
    embedded: bool
    directory: Path
    port: int | None
    began: float


def choose_ports(host: str, workers: int, port: int | None) -> list[int]:
    """Ports for the manager, the metrics service and the workers: the usual ones, or the next that are free.

    Raises:
        ConfigError: the manager must have `port`, and it is taken.
    """
    if port and not port_free(port, host):
        raise ConfigError(
            "port", f"{port} is taken by another process; give another --port, or none to take a free one"
        )
    first = port or MANAGER_PORT
    chosen: list[int] = []
    for usual in (first, first + 1, *range(first + 2, first + 2 + workers)):
        candidates = (p for p in range(max(usual, chosen[-1] + 1 if chosen else 0), 65_536) if port_free(p, host))
        try:
            chosen.append(next(candidates))
        except StopIteration:
            raise ConfigError("port", f"there are no {workers + 2} free ports above {first}") from None
    return chosen


async def first(*waits: Coroutine[Any, Any, Any]) -> tuple[int, Any]:
    """Wait for the first of several, and cancel the others; returns which it was, and its result."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        index = next(index for index, task in enumerate(tasks) if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return index, tasks[index].result()


class System:
    """One `swell up`, from start to stop.

    Attributes:
        wanted: what runs.
        settings: what the services get; `redis` is that of the server that is used.
    """

    def __init__(self, wanted: Wanted, observer: Observer) -> None:
        self.wanted = wanted
        self.settings = wanted.settings
        self._observer = observer
        self._children: list[Child] = []
        self._server: EmbeddedServer | None = None
        self._ready_s = 0.0
        self._early = asyncio.Event()
        self._why = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything, keep it running until `stop` is set, then end it in order.

        Raises:
            ConfigError: the directory is in use, a port is taken, or a setting does not fit.
            SwellError: the server or a service does not start; the text has its last words.
        """
        host = self.wanted.settings.host
        ports = choose_ports(host, self.wanted.workers, self.wanted.port)
        with claim(self.wanted.directory) as claimed:
            remove_state(claimed.directory)  # of one that was killed
            async with self._serving(claimed, stop):
                if not stop.is_set():
                    await self._check_server()
                    await self._serve(claimed, ports, stop)
            remove_state(claimed.directory)

    async def _serve(self, claimed: Claim, ports: Sequence[int], stop: asyncio.Event) -> None:
        self._children = [Child(service, self) for service in self._services(claimed, ports)]
        async with asyncio.TaskGroup() as group:
            for child in self._children:
                group.create_task(child.run())
            try:
                await self._watch(claimed, stop)
            finally:
                await self._end_children()

    @asynccontextmanager
    async def _serving(self, claimed: Claim, stop: asyncio.Event) -> AsyncIterator[None]:
        """The embedded server, if one is wanted, while the block runs."""
        if not self.wanted.embedded:
            yield
            return
        which, self._server = await first(EmbeddedServer.start(claimed), stop.wait())
        if which or self._server is None:
            yield  # stopped while the server read its data; it was ended
            return
        self.settings = replace(self.settings, redis=self._server.url)
        try:
            yield
        finally:
            await self._server.stop()

    async def _check_server(self) -> None:
        """Open the namespace before any service does: a server that cannot be used is one error, not many."""
        broker = RedisBroker(self.settings.redis, self.settings.namespace, "up")
        try:
            shards = await broker.open(self.settings.shards)
        except BrokerError as error:
            raise advised(error, "`swell up` itself" if self.wanted.embedded else "--redis or SWELL_REDIS") from error
        finally:
            await broker.close()
        if shards != self.settings.shards:
            self._observer.note(f"namespace {self.settings.namespace} has {shards} shards; their number is fixed")

    def _services(self, claimed: Claim, ports: Sequence[int]) -> list[Service]:
        names = ["manager", "metrics", *(f"worker-{n + 1}" for n in range(self.wanted.workers))]
        host = self.settings.host
        shown = host if host in LOOPBACK else "127.0.0.1"
        usual = [MANAGER_PORT, METRICS_PORT, *range(WORKER_PORT, WORKER_PORT + self.wanted.workers)]
        services = []
        for name, port, expected in zip(names, ports, usual, strict=True):
            if port != expected and self.wanted.port is None:
                self._observer.note(f"port {expected} is taken, {name} listens on {port}")
            settings = replace(self.settings, port=port)
            services.append(
                Service(
                    name=name,
                    command=(sys.executable, "-m", "swell_" + name.partition("-")[0]),
                    environ=os.environ | settings.environ(),
                    log=claimed.logs / f"{name}.log",
                    http=f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}",
                )
            )
        return services

    async def _watch(self, claimed: Claim, stop: asyncio.Event) -> None:
        """Wait until all is ready, say so, and go on until `stop`."""
        which, _ = await first(self._all_ready(), self._early.wait(), stop.wait())
        if which == 0:
            self._ready_s = asyncio.get_running_loop().time() - self.wanted.began
            self._publish()
            self._observer.ready(self.state())
            await first(stop.wait(), self._keep_server(claimed))
        elif self._why and not stop.is_set():
            raise SwellError(self._why)

    async def _all_ready(self) -> None:
        token = self.settings.token
        try:
            async with asyncio.timeout(READY_TIMEOUT_S), asyncio.TaskGroup() as beside:
                telling = beside.create_task(self._tell_who_is_late())
                async with asyncio.TaskGroup() as group:
                    for child in self._children:
                        group.create_task(until_ready(child.service.http, token))
                telling.cancel()
        except TimeoutError:
            raise SwellError(f"not ready after {READY_TIMEOUT_S:g} s: {await self._late()}") from None

    async def _tell_who_is_late(self) -> None:
        """Say what is waited for, if it takes longer than people expect."""
        await asyncio.sleep(SILENT_S)
        self._observer.note(f"waiting, {READY_TIMEOUT_S:g} s at most, for {await self._late()}")

    async def _late(self) -> str:
        """Who is not ready yet, and why."""
        token = self.settings.token
        said = [(child, await readyz(child.service.http, token)) for child in self._children]
        return ", ".join(f"{child.service.name} ({answer.said})" for child, answer in said if not answer.ready)

    async def _keep_server(self, claimed: Claim) -> None:
        """Start the embedded server again, on its port, whenever it ends; the services find it by themselves."""
        if self._server is None:
            await asyncio.Event().wait()
            return
        failures = 0
        while True:
            await self._server.ended()
            failures += 1
            wait_s = RESTART.wait_s(failures)
            self._observer.note(f"the server ended; starting it again in {wait_s:.1f} s ({self._server.log})")
            await asyncio.sleep(wait_s)
            try:
                self._server = await EmbeddedServer.start(claimed, self._server.port)
            except SwellError as error:
                self._observer.note(f"the server does not start: {error}")
            else:
                failures = 0
                self._publish()
                self._observer.note(f"the server is back (process {self._server.pid})")

    def kill(self) -> None:
        """End all services at once: the second Ctrl-C."""
        for child in self._children:
            child.kill()

    async def _end_children(self) -> None:
        """The manager first, so that no wave begins; the metrics service last, so that it hears the others' ends."""
        patience_s = self.settings.drain_s + DRAIN_MARGIN_S
        for role in ("manager", "worker", "metrics"):
            ending = [child for child in self._children if child.service.name.startswith(role)]
            ended = await asyncio.gather(*(child.stop(patience_s) for child in ending))
            for child, in_time in zip(ending, ended, strict=True):
                if not in_time:
                    self._observer.note(f"{child.service.name} did not end within {patience_s:g} s and was killed")

    # What the children say.

    def started(self, child: Child) -> None:
        """See `supervise.Listener`."""
        if child.restarts and self._ready_s:
            self._publish()
            self._observer.note(f"{child.service.name} runs again (process {child.pid})")

    def ended(self, child: Child, why: str, wait_s: float) -> None:
        """See `supervise.Listener`."""
        said = last_lines(child.service.log, child.log_start)
        if not self._ready_s:
            self._why = f"{child.service.name} {why} while it started; its last lines ({child.service.log}):\n{said}"
            self._early.set()
            return
        where = child.service.log
        self._observer.note(f"{child.service.name} {why}; starting it again in {wait_s:.1f} s ({where})")

    def state(self) -> UpState:
        """Where everything is now."""
        pids = {child.service.name: child.pid for child in self._children}
        server = self._server
        return UpState(
            pid=os.getpid(),
            redis=self.settings.redis,
            namespace=self.settings.namespace,
            app=self.settings.app,
            data_dir=str(self.wanted.directory),
            logs=str(self.wanted.directory / "logs"),
            embedded=server is not None,
            adopted=server is not None and server.adopted,
            http={child.service.name: child.service.http for child in self._children},
            pids=pids if server is None else {"server": server.pid} | pids,
            ready_s=self._ready_s,
        )

    def _publish(self) -> None:
        write_state(self.state())
