"""The manager's composition root: which parts there are, and in which order they start and stop.

start   HTTP (alive, not ready), broker, client, consumer of `control` (whoever owns it leads), reports
stop    HTTP takes no more, what is under way is answered; `control` is handed over, what we gave to the client is sent
"""

from __future__ import annotations

import asyncio
import os
import socket
import time

from swell import __version__, logs
from swell.bus.consumer import Consumer
from swell.bus.redis import RedisBroker
from swell.client import Client
from swell.config import Settings
from swell.exposition import ProcessMetrics, metrics_text
from swell.http import GRACE_S, announce, broker_check, listen, serve, service_app
from swell.instruments import Recorder, resident_bytes
from swell.keys import CONTROL
from swell.lifecycle import left_s, open_broker, process_name
from swell.reporting import report
from swell.wire import WorkerInfo
from swell_manager.api import routes
from swell_manager.control import Control

DEFAULT_PORT = 8700


class Manager:
    """One manager process: it leads while it owns `control`, and answers over HTTP in any case.

    Args:
        settings: its settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        process = process_name("manager")
        self.recorder = Recorder(process)
        self.broker = RedisBroker(settings.redis, settings.namespace, process, settings.durability)
        self.client = Client(self.broker, process, settings.max_depth, self.recorder)
        self.control = Control(self.client, self.recorder)
        self.consumer: Consumer | None = None
        self.recorder.watch("shards", lambda: len(self.consumer.owned) if self.consumer is not None else 0)
        self.recorder.watch("memory_bytes", resident_bytes)
        self.info = WorkerInfo(
            process=process,
            role="manager",
            pid=os.getpid(),
            host=socket.gethostname(),
            version=__version__,
            started_ms=time.time_ns() // 1_000_000,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`, then hand over within the settings' `drain_s`.

        A server that is away is waited for, alive and not ready.

        Raises:
            ConfigError: the HTTP port is taken.
            BrokerRefused: the server will not have us.
        """
        settings = self._settings
        listening = listen(settings.host, settings.port, DEFAULT_PORT)
        announce(listening, self.info)
        closed = asyncio.Event()
        http = service_app(
            "manager",
            settings,
            {"redis": broker_check(self.broker), "control": self._makes_progress},
            routes(self.client),
            metrics_text(ProcessMetrics(self.recorder.gauges)),
        )
        async with asyncio.TaskGroup() as outer:
            serving = outer.create_task(serve(http, listening, closed, settings.drain_s))
            try:
                self.client.shards = await open_broker(self.broker, settings.shards, stop)
                if not stop.is_set():
                    await self._work(stop, closed, serving)
            finally:
                closed.set()
                await asyncio.wait({serving})
                await self.broker.close()

    async def _work(self, stop: asyncio.Event, closed: asyncio.Event, serving: asyncio.Task[None]) -> None:
        """Lead, or stand by, until `stop`.

        Requests under way may need the leader, who may be us: `control` is kept for a moment longer. Those that take
        longer wait for agents, or follow a plan; they go on beside the hand-over, until the deadline.
        """
        drain_s = self._settings.drain_s
        self.consumer = Consumer(
            self.broker,
            self.info,
            [CONTROL],
            self.control,
            lease_ms=self._settings.lease_ms,
            recorder=self.recorder,
            max_deliveries=self._settings.max_deliveries,
            give_up=self.control.poisoned,
        )
        answered = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            self.control.attach(self.consumer, group)
            self.client.start(group)
            reporting = group.create_task(report(self.client, self.recorder))
            consuming = group.create_task(self.consumer.run(answered, drain_s))
            await stop.wait()
            deadline = time.monotonic() + drain_s
            closed.set()
            self.client.facts.end_watches()
            await asyncio.wait({serving}, timeout=min(GRACE_S, drain_s))
            answered.set()
            await asyncio.wait({serving, consuming})
            reporting.cancel()
            await asyncio.wait({reporting})
            await self.client.finish(left_s(deadline))

    async def _makes_progress(self) -> tuple[bool, str]:
        if self.consumer is None:
            return False, "waiting for the server"
        ready, reason = self.consumer.ready()
        if not ready:
            return False, reason
        return True, "leading" if self.control.leading else "standby"


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a manager until `stop`."""
    manager = Manager(settings)
    logs.configure(settings, "manager", manager.info.process)
    await manager.run(stop)
