"""The app of the lifecycle's fault tests: agents that write down what they are told, let go, limited, or neither."""

from __future__ import annotations

import asyncio

from swell import App, handler
from tests.integration.fleet import Notary, Note

app = App("held")


@app.agent("plain")
class Plain(Notary):
    """Nothing special."""


@app.agent("sleeper", idle_after=0.2)
class Sleeper(Notary):
    """Closes its file when it is idle."""

    async def passivated(self) -> None:
        await asyncio.sleep(0.02)
        self._file.close()


@app.agent("narrow", concurrency=4, rate=2000)
class Narrow(Notary):
    """Four at a time."""

    @handler
    async def note(self, body: Note) -> None:
        await asyncio.sleep(0.001)
        await super().note(body)
