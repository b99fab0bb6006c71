"""The worker's composition root: which parts there are, and in which order they start and stop.

start   broker, client, consumer (leases, reading, settling), agents, watchman, reports, HTTP
stop    stop reading, finish what runs, settle, release leases, send what agents gave us, close
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time

from swell.http import Check, announce, serve, service_app
from swell.instruments import Recorder
from swell.lifecycle import open_broker, process_name

from swell import __version__
from swell.app import App, load_app
from swell.bus.consumer import Consumer
from swell.bus.redis import RedisBroker
from swell.client import Client
from swell.config import Settings
from swell.reporting import report
from swell.wire import WorkerInfo
from swell_worker.host import Fleet
from swell_worker.watchman import watch

log = logging.getLogger(__name__)

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
        self.broker = RedisBroker(settings.redis, settings.namespace, process)
        self.client = Client(self.broker, process, settings.max_depth, self.recorder)
        self.fleet = Fleet(
            app, self.broker, self.client, self.recorder, mailbox=settings.mailbox, buffer=settings.buffer
        )
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
        """Run until `stop`, then drain within the settings' `drain_s`."""
        settings = self._settings
        self.client.shards = await open_broker(self.broker, settings.shards, stop)
        if stop.is_set():
            return
        consumer = Consumer(
            self.broker,
            self.info,
            self.client.shard_names,
            self.fleet,
            lease_ms=settings.lease_ms,
            recorder=self.recorder,
        )
        async with asyncio.TaskGroup() as group:
            self.fleet.attach(consumer, group)
            self.client.start(group)
            beside = [group.create_task(watch(self.fleet)), group.create_task(report(self.client, self.recorder))]
            await consumer.run(stop, settings.drain_s)
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            await self.client.finish()
        await self.broker.close()


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a worker until `stop`."""
    worker = Worker(settings, load_app(settings.app))
    await worker.run(stop)


__all__ = ["Check", "Worker", "announce", "main", "serve", "service_app"]
