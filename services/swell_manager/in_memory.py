"""A manager on a broker that it is given, without HTTP, for `swell.testing`; otherwise as `app.py` wires it."""

from __future__ import annotations

import asyncio

from swell.bus.broker import Broker
from swell.bus.consumer import Consumer
from swell.client import Client
from swell.config import Settings
from swell.instruments import Recorder
from swell.keys import CONTROL
from swell.wire import WorkerInfo
from swell_manager.control import Control


async def run(broker: Broker, info: WorkerInfo, settings: Settings, stop: asyncio.Event) -> None:
    """Lead until `stop`, then hand over."""
    recorder = Recorder(info.process)
    client = Client(broker, info.process, settings.max_depth, recorder)
    client.shards = settings.shards
    control = Control(client, recorder)
    consumer = Consumer(
        broker,
        info,
        [CONTROL],
        control,
        lease_ms=settings.lease_ms,
        recorder=recorder,
        max_deliveries=settings.max_deliveries,
        give_up=control.poisoned,
    )
    async with asyncio.TaskGroup() as group:
        control.attach(consumer, group)
        client.start(group)
        await consumer.run(stop, settings.drain_s)
        await client.finish()
