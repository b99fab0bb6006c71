"""What a user calls: spawn, send, ask, terminate, and look.

async with Client.connect("redis://127.0.0.1:6379", namespace="reviews") as client:
plan = await client.spawn("reviewer", count=1000, wave_size=100)
async for progress in plan:
print(progress.ready, "of", progress.count)
verdict = await client.ask("reviewer/0007", "review", Review(path="a.py"), Verdict, timeout=5)
"""

from __future__ import annotations

import asyncio
from typing import Self

from swell.bus.broker import Broker
from swell.config import Settings
from swell.dead import Letters
from swell.facts import Facts
from swell.instruments import Recorder
from swell.lifecycle import process_name
from swell.plan import Plan
from swell.planning import Planning
from swell.registry import AgentView

#: How long `connect` tries before it says that the server cannot be reached, seconds.
CONNECT_TIMEOUT_S = 5.0
#: How long what was given to a client that closes may take to be appended, seconds.
FINISH_TIMEOUT_S = 10.0


class Client(Planning):
    """A process's way into a namespace. Make one with `Client.connect`.

    What it sends and asks is in `swell.messenger`, what it schedules in `swell.timetable`, what it sees in
    `swell.looking`, work for many in `swell.working`, what it holds back in `swell.holding`, plans in `swell.planning`;
    here is its connection.
    """

    def __init__(self, broker: Broker, process: str, max_depth: int, recorder: Recorder) -> None:
        super().__init__(broker, process, max_depth, recorder)
        self.letters = Letters(self, max_depth)
        self.facts = Facts(self)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def connect(cls, redis: str = "", *, namespace: str = "", settings: Settings | None = None) -> Client:
        """A client for `async with`; the connection is made on entering.

        Args:
            redis: URL of the server; by default that of the settings.
            namespace: the tenant; by default that of the settings.
            settings: all settings; by default read from the environment.

        Raises:
            ConfigError: the URL or the namespace is malformed. On entering:
            BrokerUnavailable: the server does not answer within 5 s.
            BrokerRefused: it is too old, or does not let us in.
        """
        from swell.bus.redis import RedisBroker
        from swell.config import load

        settings = settings or load({"redis": redis or None, "namespace": namespace or None})
        process = process_name("client")
        broker = RedisBroker(settings.redis, settings.namespace, process, settings.durability)
        client = cls(broker, process, settings.max_depth, Recorder(process))
        client.shards = settings.shards
        return client

    async def __aenter__(self) -> Self:
        try:
            self.shards = await self.broker.open(self.shards)
        except BaseException:
            await self.broker.close()
            raise
        self._group = await asyncio.TaskGroup().__aenter__()
        self.start(self._group)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._group is not None
        try:
            await self.finish()
        finally:
            try:
                await self._group.__aexit__(None, None, None)
            finally:
                await self.broker.close()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Run the producer and the reader of replies in a service's own task group (the broker is open already)."""
        running = (self.producer.run(), self.caller.run(), self.facts.run())
        self._tasks = [group.create_task(part) for part in running]

    async def finish(self, timeout_s: float = FINISH_TIMEOUT_S) -> None:
        """Append what was given to us, within `timeout_s` seconds, then stop. Cancelled, it stops at once."""
        self.producer.close()
        try:
            await asyncio.wait(self._tasks[:1], timeout=timeout_s)
        finally:
            for task in self._tasks:
                task.cancel()


__all__ = ["AgentView", "Client", "Plan"]
