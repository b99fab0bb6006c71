"""Agents of your own, in one file."""

from __future__ import annotations

from swell import Agent, App, handler

app = App("greeter")


@app.agent("greeter")
class Greeter(Agent):
    """Greets."""

    @handler
    async def greet(self, body: str) -> str:
        """Answer with a greeting."""
        return f"Hello, {body}"
