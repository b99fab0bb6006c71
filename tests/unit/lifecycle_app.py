"""The app of the lifecycle's tests, and what its agents did; modules that use it import `fresh`, too."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest

from swell import Agent, App, handler
from swell.testing import Fleet

log: list[tuple[str, int]] = []
hooks: list[tuple[str, str]] = []
running: Counter[str] = Counter()
most: Counter[str] = Counter()
trouble: list[BaseException] = []


class Kept(msgspec.Struct):
    count: int = 0
    rests: int = 0


class One(Agent):
    state: Kept

    async def started(self) -> None:
        hooks.append(("started", self.key))

    async def passivated(self) -> None:
        self.state.rests += 1
        hooks.append(("passivated", self.key))
        if trouble:
            raise trouble[0]
        await asyncio.sleep(0.5)

    @handler
    async def note(self, body: int) -> int:
        self.state.count += 1
        log.append((self.key, body))
        return self.state.count

    @handler
    async def slow(self, body: int) -> None:
        for what in (self.id, self.id.partition("/")[0]):
            running[what] += 1
            most[what] = max(most[what], running[what])
        try:
            await asyncio.sleep(1.0)
        finally:
            running.subtract((self.id, self.id.partition("/")[0]))
        log.append((self.key, body))

    @handler
    async def nap(self, body: float) -> None:
        await asyncio.sleep(body)

    @handler
    async def fail(self) -> None:
        raise ValueError("bad")

    @handler
    async def rests(self) -> int:
        return self.state.rests

    @handler
    async def pause_me(self, body: int) -> None:
        await self.pause("I want to")
        log.append((self.key, body))


def app_of(**options: Any) -> App:
    app = App("tests")
    app.agent("one", max_attempts=1, **options)(One)
    app.agent("other", max_attempts=1)(One)
    return app


@pytest.fixture(autouse=True)
def fresh() -> None:
    for one in (log, hooks, trouble, running, most):
        one.clear()


async def state(fleet: Fleet, id: str) -> str:
    return next(view.state for view in await fleet.client.agents(limit=1000) if view.id == id)


def told(key: str) -> list[int]:
    return [body for one, body in log if one == key]
