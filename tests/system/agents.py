"""The agents of the system tests: their state survives their worker, and counts each message once."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from swell import Agent, App, handler

app = App("system")


class Seen(Struct):
    """What an agent handled: messages, and how many did not follow the one before."""

    handled: int = 0
    out_of_order: int = 0
    following: int = 0


@app.agent("tally", timeout=30)
class Tally(Agent):
    """Counts."""

    state: Seen

    @handler
    async def add(self, body: int) -> None:
        """Take message number `body`."""
        seen = self.state
        seen.handled += 1
        seen.out_of_order += body != seen.following
        seen.following = body + 1

    @handler
    async def ping(self, body: int) -> int:
        """Answer the number."""
        return body

    @handler
    async def slow(self, body: float) -> str:
        """Answer after so many seconds."""
        await asyncio.sleep(body)
        return "done"

    @handler
    async def seen(self) -> Seen:
        """Say what was handled."""
        return self.state
