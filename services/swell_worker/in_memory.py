"""A worker on a broker that it is given, without HTTP, for `swell.testing`; otherwise as `app.py` wires it."""

from __future__ import annotations

import asyncio

from swell.app import App
from swell.bus.broker import Broker
from swell.bus.consumer import Consumer
from swell.client import Client
from swell.config import Settings
from swell.instruments import Recorder
from swell.priority import RANKS
from swell.wire import WorkerInfo
from swell_worker.host import Fleet
from swell_worker.pools import LET_GO_S
from swell_worker.watchman import watch


async def run(app: App, broker: Broker, info: WorkerInfo, settings: Settings, stop: asyncio.Event) -> None:
    """Host the app's agents until `stop`, then hand them over. Cancelled, it ends as a killed process does."""
    recorder = Recorder(info.process)
    client = Client(broker, info.process, settings.max_depth, recorder)
    client.shards = settings.shards
    fleet = Fleet(app, broker, client, recorder, mailbox=settings.mailbox, buffer=settings.buffer)
    consumer = Consumer(
        broker,
        info,
        client.shard_names,
        fleet,
        lease_ms=settings.lease_ms,
        recorder=recorder,
        max_deliveries=settings.max_deliveries,
        give_up=fleet.poisoned,
        ranks=RANKS,
    )
    try:
        async with asyncio.TaskGroup() as group:
            fleet.attach(consumer, group)
            client.start(group)
            fleet.oversight.attach(consumer, group)
            watching = group.create_task(watch(fleet))
            await consumer.run(stop, settings.drain_s)
            fleet.end()
            watching.cancel()
            await fleet.pools.close(LET_GO_S)
            await client.finish()
    finally:
        fleet.over()
