"""The app that runs when no other is given: agents of type `echo`, to try a deployment with."""

from __future__ import annotations

from typing import Any

from swell.agent import Agent, handler
from swell.app import App

app = App("echo")


@app.agent("echo")
class Echo(Agent):
    """Answers what it is told and counts."""

    def __init__(self) -> None:
        self.handled = 0

    @handler
    async def echo(self, body: Any) -> Any:
        """Answer the body itself."""
        self.handled += 1
        return body

    @handler
    async def count(self) -> int:
        """Answer how many messages this agent has handled, this one included."""
        self.handled += 1
        return self.handled
