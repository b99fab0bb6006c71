"""The metrics service's composition root: broker, consumer of the shard `metrics`, its own reports, HTTP.

Several instances may run. One owns the shard; the others stand by: they are ready, say so in `/readyz`, expose no
totals, and answer `/v1/summary` with 503 and the address of the owner. If the owner dies, one of them goes on from the
totals that it saved.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping

from litestar import get
from litestar.exceptions import ServiceUnavailableException

from swell import __version__, logs
from swell.alerts import RECORD, Alert
from swell.bus.consumer import Consumer
from swell.bus.redis import RedisBroker
from swell.client import Client
from swell.codec import decode
from swell.config import Settings
from swell.exposition import metrics_text
from swell.http import announce, broker_check, listen, serve, service_app
from swell.instruments import Recorder, resident_bytes
from swell.keys import METRICS
from swell.lifecycle import left_s, open_broker, process_name
from swell.reporting import report
from swell.wire import WorkerInfo
from swell_metrics.collector import Summary
from swell_metrics.exposition import Exposition
from swell_metrics.host import MetricsHost
from swell_metrics.watch import Watch

DEFAULT_PORT = 8701
#: An owner that merged nothing for so long is not making progress, seconds: its own reports come every second.
SILENCE_S = 10.0


class MetricsService:
    """One metrics process. Several may run: one owns the shard, the others stand by.

    Args:
        settings: its settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        process = process_name("metrics")
        self.recorder = Recorder(process)
        self.broker = RedisBroker(settings.redis, settings.namespace, process, settings.durability)
        self.host = MetricsHost(self.recorder, self._opened, lambda: self.watch.close())
        self.info = WorkerInfo(
            process=process,
            role="metrics",
            pid=os.getpid(),
            host=socket.gethostname(),
            version=__version__,
            started_ms=time.time_ns() // 1_000_000,
        )
        self.client = Client(self.broker, process, settings.max_depth, self.recorder)
        self.consumer = Consumer(
            self.broker, self.info, [METRICS], self.host, lease_ms=settings.lease_ms, recorder=self.recorder
        )
        self.watch = Watch(
            self.broker, settings, self.recorder, lambda: self.host.collector.totals, self.consumer.record
        )
        self.recorder.watch("shards", lambda: len(self.consumer.owned))
        self.recorder.watch("memory_bytes", resident_bytes)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`.

        Raises:
            ConfigError: the HTTP port is taken.
            BrokerRefused: the server will not have us.
        """
        settings = self._settings
        listening = listen(settings.host, settings.port, DEFAULT_PORT)
        announce(listening, self.info)

        @get("/v1/summary", summary="Counts, rates, success and latencies, by type and overall.")
        async def summary() -> Summary:
            if METRICS not in self.consumer.owned:
                raise ServiceUnavailableException(detail=await self._standby(), headers={"Retry-After": "1"})
            return self.host.collector.summary(time.monotonic())

        @get("/v1/alerts", summary="All rules that are on, with their states.")
        async def alerts() -> list[Alert]:
            if METRICS not in self.consumer.owned:
                raise ServiceUnavailableException(detail=await self._standby(), headers={"Retry-After": "1"})
            return self.watch.alerts()

        http = service_app(
            "metrics",
            settings,
            {"redis": broker_check(self.broker), "metrics": self._makes_progress},
            [summary, alerts],
            metrics_text(Exposition(lambda: self.host.collector, self.watch)),
        )
        closed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(serve(http, listening, closed))
            try:
                self.client.shards = await open_broker(self.broker, settings.shards, stop)
                if self.client.shards:
                    await self._work(stop)
            finally:
                closed.set()
                await self.broker.close()

    async def _work(self, stop: asyncio.Event) -> None:
        """Own the shard if it is our turn, and report what this process itself measures, the way all others do."""
        async with asyncio.TaskGroup() as group:
            self.client.start(group)
            beside = [
                group.create_task(report(self.client, self.recorder)),
                group.create_task(self.watch.run()),
            ]
            consuming = group.create_task(self.consumer.run(stop, self._settings.drain_s))
            await stop.wait()
            deadline = time.monotonic() + self._settings.drain_s
            await asyncio.wait((consuming,))
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            await self.client.finish(left_s(deadline))

    def _opened(self, records: Mapping[str, bytes]) -> None:
        self.watch.open(self.client.shard_names, records.get(RECORD))

    async def _makes_progress(self) -> tuple[bool, str]:
        """Whether the shard is ours and its reports are merged, or another instance's and we could take it over."""
        ok, reason = self.consumer.ready()
        if not ok:
            return ok, reason
        if METRICS not in self.consumer.owned:
            return True, await self._standby()
        silent_s = time.monotonic() - self.host.merged_s
        if silent_s > SILENCE_S:
            return False, f"nothing was merged for {silent_s:.0f} s, although this process reports every second"
        return True, f"owns the shard; the last report was merged {silent_s:.1f} s ago"

    async def _standby(self) -> str:
        """Where to ask instead."""
        (lease,) = await self.broker.leases([METRICS])
        if not lease.owner:
            return "standby: no instance owns the shard yet"
        members = [decode(member.info, WorkerInfo) for member in await self.broker.members("metrics")]
        http = next((info.http for info in members if info.process == lease.owner), "")
        return f"standby: {lease.owner} owns the shard" + (f"; ask {http}" if http else "")


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a metrics service until `stop`."""
    service = MetricsService(settings)
    logs.configure(settings, "metrics", service.info.process)
    await service.run(stop)
