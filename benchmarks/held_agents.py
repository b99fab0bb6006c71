"""The app of benchmarks.lifecycle: agents that are let go at once, and others that never are."""

from __future__ import annotations

from swell import Agent, App, handler

app = App("benchmark")


@app.agent("sleeper", idle_after=0.5)
class Sleeper(Agent):
    """Is let go after half a second."""

    @handler
    async def echo(self, body: int) -> int:
        """Answer the same."""
        return body


@app.agent("waker")
class Waker(Sleeper):
    """Stays."""
