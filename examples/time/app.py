"""The app: a tea kitchen. A pot that has been forgotten is cold, and a reminder that comes too late is no use."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from swell import Agent, App, handler

app = App("kitchen")

#: How long tea takes, seconds.
BREW_S = 0.5


class Cup(Struct):
    """One cup asked for."""

    kind: str


class Log(Struct):
    """What happened at a pot."""

    brewing: list[str] = []
    ready: list[str] = []
    checks: int = 0


@app.agent("pot")
class Pot(Agent):
    """Brews a cup without waiting for it: it sends itself a message for later."""

    state: Log

    @handler
    async def brew(self, body: Cup) -> None:
        """Begin a cup; `ready` comes when it has drawn. After ten times that nobody wants it."""
        self.state.brewing.append(body.kind)
        await self.send(self.id, "ready", body, delay=BREW_S, ttl=10 * BREW_S)

    @handler
    async def ready(self, body: Cup) -> None:
        """A cup is done."""
        self.state.ready.append(body.kind)

    @handler
    async def check(self) -> None:
        """Somebody looks, as often as the schedule says."""
        self.state.checks += 1

    @handler
    async def scrub(self, body: float) -> None:
        """Something that takes its time."""
        await asyncio.sleep(body)

    @handler
    async def log(self) -> Log:
        """All of it."""
        return self.state
