"""The app of the manager's tests: agents that write down, outside the system, each time one of them starts."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec

from swell import Agent, App, handler

app = App("births")


class Temper(msgspec.Struct):
    """How agents start: how long it takes, seconds, and the keys of those that fail."""

    takes_s: float = 0.0
    failing: list[str] = []


@app.agent("child", max_attempts=1)
class Child(Agent):
    """Starts as it is told to, and says what it is told."""

    async def started(self, args: Temper | None) -> None:
        temper = args or Temper()
        with (Path(os.environ["SWELL_TEST_ACCOUNT"]) / f"births.{os.getpid()}").open("a") as file:
            file.write(f"{self.id}\n")
        await asyncio.sleep(temper.takes_s)
        if self.key in temper.failing:
            raise RuntimeError(f"{self.key} is not well")

    @handler
    async def say(self, body: Any) -> Any:
        return body

    @handler
    async def double(self, body: int) -> int:
        return 2 * body


def births(directory: Path) -> dict[str, int]:
    """How often each agent has started, by the agents' own account."""
    started: dict[str, int] = {}
    for file in directory.glob("births.*"):
        for id in file.read_text().split():
            started[id] = started.get(id, 0) + 1
    return started
