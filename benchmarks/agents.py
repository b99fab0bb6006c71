"""The agents whose account survives their process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from swell import Agent, App, handler

app = App("benchmarks")


class Item(msgspec.Struct, array_like=True):
    """One of a sender's messages to one agent: its number, and padding."""

    number: int
    due_us: int
    pad: str


@app.agent("notary")
class Notary(Agent):
    """Writes every number down, unbuffered, before it returns: an account that survives the process."""

    async def started(self) -> None:
        """Open the file of this life: an agent may come back to a process, when its shard does."""
        path = Path(os.environ["BENCHMARK_ACCOUNT"]) / f"{self.key}.{time.time_ns()}.{os.getpid()}"
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    @handler
    async def add(self, body: Item) -> None:
        """Write one number down."""
        os.write(self._file, b"%d\n" % body.number)

    @handler
    async def account(self) -> int:
        """Answer when everything before this is written."""
        return os.getpid()


@app.agent("late")
class Late(Agent):
    """Notes by how much each message is late: its body is when it was due."""

    def __init__(self) -> None:
        self._late_us: list[int] = []

    @handler
    async def note(self, body: int) -> None:
        """One message, due at `body`, microseconds since 1970."""
        self._late_us.append(time.time_ns() // 1000 - body)

    @handler
    async def all(self) -> list[int]:
        """All of them, microseconds."""
        return self._late_us
