"""The metrics service's composition root: broker, consumer of the shard `metrics`, HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
import time

from litestar import get

from swell import __version__, logs
from swell.bus.consumer import Consumer
from swell.bus.redis import RedisBroker
from swell.config import Settings
from swell.exposition import metrics_text
from swell.http import announce, broker_check, listen, serve, service_app
from swell.instruments import Recorder
from swell.keys import METRICS
from swell.lifecycle import open_broker, process_name
from swell.wire import WorkerInfo
from swell_metrics.collector import Summary
from swell_metrics.exposition import Exposition
from swell_metrics.host import MetricsHost

DEFAULT_PORT = 8701


class MetricsService:
    """One metrics process. Several may run: one owns the shard, the others stand by.

    Args:
        settings: its settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        process = process_name("metrics")
        self.recorder = Recorder(process)
        self.broker = RedisBroker(settings.redis, settings.namespace, process)
        self.host = MetricsHost(self.recorder)
        self.info = WorkerInfo(
            process=process,
            role="metrics",
            pid=os.getpid(),
            host=socket.gethostname(),
            version=__version__,
            started_ms=time.time_ns() // 1_000_000,
        )
        self.consumer = Consumer(
            self.broker, self.info, [METRICS], self.host, lease_ms=settings.lease_ms, recorder=self.recorder
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`.

        Raises:
            ConfigError: the HTTP port is taken.
            BrokerRefused: the server will not have us.
        """
        settings = self._settings
        listening = listen(settings.host, settings.port, DEFAULT_PORT)
        announce(listening, self.info)

        @get("/v1/summary", sync_to_thread=False, summary="Counts, rates, success and latencies, by type and overall.")
        def summary() -> Summary:
            return self.host.collector.summary(time.monotonic())

        http = service_app(
            "metrics",
            settings,
            {"redis": broker_check(self.broker), "metrics": self._makes_progress},
            [summary],
            metrics_text(Exposition(lambda: self.host.collector.totals)),
        )
        closed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(http, listening, closed))
            try:
                if await open_broker(self.broker, settings.shards, stop):
                    await self.consumer.run(stop, settings.drain_s)
            finally:
                closed.set()
                await self.broker.close()

    async def _makes_progress(self) -> tuple[bool, str]:
        """Standing by is ready too: the answer says so, and the summary is then another instance's to give."""
        ok, reason = self.consumer.ready()
        return ok, reason if self.consumer.owned or not ok else "standing by: another instance owns the shard"


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a metrics service until `stop`."""
    service = MetricsService(settings)
    logs.configure(settings, "metrics", service.info.process)
    await service.run(stop)
