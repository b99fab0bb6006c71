"""Workers that are killed in turn, and what their shards' accounts say meanwhile."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from swell import Client
from swell.bus.broker import Ledger
from tests.integration.services import PATIENCE_S, Service


class Workers:
    """Two workers of one namespace.

    Args:
        url: the server's.
        namespace: theirs.
        directory: where they log, and their agents write.
        rng: chooses whom to kill.
        app: what they run.
    """

    def __init__(self, url: str, namespace: str, directory: Path, rng: random.Random, app: str) -> None:
        self._start = lambda: Service("worker", url, namespace, directory, app=app)
        self._rng = rng
        self._running = [self._start(), self._start()]

    async def ready(self) -> None:
        """Return when both are."""
        for one in self._running:
            await one.ready()

    async def kill_one(self) -> None:
        """Kill one of them; returns when another is ready in its place."""
        self._running.pop(self._rng.randrange(len(self._running))).kill()
        self._running.append(self._start())
        await self._running[-1].ready()

    def kill(self) -> None:
        """Kill them all."""
        for one in self._running:
            one.kill()


async def accounts(client: Client) -> list[Ledger]:
    """Of every shard, also of those that nobody owns now."""
    return [await client.broker.ledger(shard) for shard in client.shard_names]


async def settled(client: Client) -> list[Ledger]:
    """The accounts, when no message waits any more, and none is to come later."""
    async with asyncio.timeout(2 * PATIENCE_S):
        while any(one.scheduled or one.depth for one in await accounts(client)):
            await asyncio.sleep(0.05)
    return await accounts(client)
