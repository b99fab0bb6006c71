"""What tests of facts and locks need beside a backend: clients that play processes, and waits for what must come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from swell.bus.facts import FactStore
from swell.client import Client
from swell.facts import Change, Watch
from swell.instruments import Recorder
from tests.conformance.backends import PATIENCE_S, Backend

SHARDS = 4
_T = TypeVar("_T")


@asynccontextmanager
async def process(backend: Backend, name: str = "p1") -> AsyncIterator[Client]:
    """A client as another process would have it."""
    client = Client(backend.connect(), name, 1_000_000, Recorder(name))
    client.shards = SHARDS
    async with client:
        yield client


async def soon(what: Awaitable[_T]) -> _T:
    """What comes, or a failure if it does not."""
    async with asyncio.timeout(PATIENCE_S):
        return await what


async def take(watch: Watch[_T], count: int) -> list[Change[_T]]:
    """The next changes."""
    return [await soon(anext(watch)) for _ in range(count)]


async def in_line(broker: FactStore, shard: str, name: str, count: int) -> None:
    """Return when so many wait for a name."""

    async def waiting() -> int:
        return sum(state.waiting for state in await broker.hold_list(shard, "", 1000) if state.name == name)

    async with asyncio.timeout(PATIENCE_S):
        while await waiting() != count:
            await asyncio.sleep(0)


async def until_done(backend: Backend, task: asyncio.Task[_T]) -> _T:
    """Let the server's time pass until a task has ended."""

    async def done() -> bool:
        await asyncio.sleep(0.001)
        return task.done()

    await backend.until(done)
    return await task
