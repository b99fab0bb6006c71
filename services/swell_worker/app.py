"""The worker's composition root: which parts there are, and in which order they start and stop.

start   broker, client, consumer (leases, reading, settling), agents, watchman, reports, HTTP
stop    stop reading, finish what runs, settle, release leases, send what agents gave us, close
"""

from __future__ import annotations

import asyncio
import os
import socket
import time

from swell import __version__, logs
from swell.app import App, load_app
from swell.bus.consumer import Consumer
from swell.bus.redis import RedisBroker
from swell.client import Client
from swell.config import Settings
from swell.exposition import ProcessMetrics, metrics_text
from swell.http import announce, broker_check, listen, serve, service_app
from swell.instruments import Recorder, resident_bytes
from swell.lifecycle import left_s, open_broker, process_name
from swell.priority import RANKS
from swell.reporting import report
from swell.wire import WorkerInfo
from swell_worker.host import Fleet
from swell_worker.pools import LET_GO_S
from swell_worker.releasing import release
from swell_worker.watchman import watch

DEFAULT_PORT = 8702


class Worker:
    """One worker process.

    Args:
        settings: its settings.
        app: the agent types it runs.
    """

    def __init__(self, settings: Settings, app: App) -> None:
        self._settings = settings
        process = process_name("worker")
        self.recorder = Recorder(process)
        self.broker = RedisBroker(settings.redis, settings.namespace, process, settings.durability)
        self.client = Client(self.broker, process, settings.max_depth, self.recorder)
        self.fleet = Fleet(
            app, self.broker, self.client, self.recorder, mailbox=settings.mailbox, buffer=settings.buffer
        )
        self.consumer: Consumer | None = None
        self.recorder.watch("agents", self.fleet.count)
        self.recorder.watch("awake", lambda: len(self.fleet.awake))
        self.recorder.watch("warm", self.fleet.pools.count)
        self.recorder.watch("tasks_queued", self.fleet.tasks.count)
        self.recorder.watch("shards", lambda: len(self.consumer.owned) if self.consumer is not None else 0)
        self.recorder.watch("memory_bytes", resident_bytes)
        self.info = WorkerInfo(
            process=process,
            role="worker",
            pid=os.getpid(),
            host=socket.gethostname(),
            version=__version__,
            types=sorted(app.types),
            started_ms=time.time_ns() // 1_000_000,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`, then drain within the settings' `drain_s`.

        Raises:
            ConfigError: the HTTP port is taken.
            BrokerRefused: the server will not have us.
        """
        settings = self._settings
        listening = listen(settings.host, settings.port, DEFAULT_PORT, walk=True)
        announce(listening, self.info)
        closed = asyncio.Event()
        http = service_app(
            "worker",
            settings,
            {"redis": broker_check(self.broker), "shards": self._makes_progress, "pools": self._is_warm},
            [],
            metrics_text(ProcessMetrics(self.recorder.gauges)),
        )
        async with asyncio.TaskGroup() as outer:
            outer.create_task(serve(http, listening, closed))
            try:
                await self._work(stop)
            finally:
                self.fleet.over()
                await release(self.fleet.app)
                closed.set()
                await self.broker.close()

    async def _work(self, stop: asyncio.Event) -> None:
        settings = self._settings
        self.client.shards = await open_broker(self.broker, settings.shards, stop)
        if stop.is_set():
            return
        self.consumer = Consumer(
            self.broker,
            self.info,
            self.client.shard_names,
            self.fleet,
            lease_ms=settings.lease_ms,
            recorder=self.recorder,
            max_deliveries=settings.max_deliveries,
            give_up=self.fleet.poisoned,
            ranks=RANKS,
        )
        async with asyncio.TaskGroup() as group:
            self.fleet.attach(self.consumer, group)
            self.client.start(group)
            self.fleet.oversight.attach(self.consumer, group)
            beside = [
                group.create_task(watch(self.fleet)),
                group.create_task(report(self.client, self.recorder)),
            ]
            consuming = group.create_task(self.consumer.run(stop, settings.drain_s))
            await stop.wait()
            deadline = time.monotonic() + settings.drain_s
            await asyncio.wait((consuming,))
            self.fleet.end()
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            await self.fleet.pools.close(max(LET_GO_S, left_s(deadline)))
            await self.client.finish(left_s(deadline))

    async def _is_warm(self) -> tuple[bool, str]:
        return self.fleet.pools.ready()

    async def _makes_progress(self) -> tuple[bool, str]:
        if self.consumer is None:
            return False, "waiting for the server"
        return self.consumer.ready()


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a worker until `stop`."""
    app = load_app(settings.app)
    worker = Worker(settings, app)
    logs.configure(settings, "worker", worker.info.process)
    await worker.run(stop)
