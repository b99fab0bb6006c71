"""The app of the lifecycle's fault tests: agents that write down what they are told, let go, limited, or neither."""

from __future__ import annotations

import asyncio
import time

from swell import App, handler
from tests.integration.fleet import Notary, Note

app = App("held")
#: The sender of the line that begins a life.
BEGINS = "~"


@app.agent("plain")
class Plain(Notary):
    """Also writes down when it was started: a process may host it more than once."""

    async def started(self) -> None:
        await super().started()
        self._file.write(f"{BEGINS} {time.monotonic_ns()}\n")


@app.agent("sleeper", idle_after=0.2)
class Sleeper(Plain):
    """Closes its file when it is idle."""

    async def passivated(self) -> None:
        await asyncio.sleep(0.02)
        self._file.close()


@app.agent("narrow", concurrency=4, rate=2000)
class Narrow(Plain):
    """Four at a time."""

    @handler
    async def note(self, body: Note) -> None:
        await asyncio.sleep(0.001)
        await super().note(body)
