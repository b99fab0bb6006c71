"""The app of the fault tests of chains: agents that add, and agents that hold up whatever else their worker does."""

from __future__ import annotations

import asyncio
import time

from swell import Agent, App, handler

app = App("chained")


@app.agent("clerk")
class Clerk(Agent):
    @handler
    async def add(self, body: int) -> int:
        return body + 1

    @handler
    async def add_slowly(self, body: int) -> int:
        await asyncio.sleep(0.01)
        return body + 1


@app.agent("burner")
class Burner(Agent):
    @handler
    async def burn(self) -> None:
        time.sleep(0.02)  # noqa: ASYNC251 - that is the fault: the worker's loop stands still.
