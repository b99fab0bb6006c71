"""The agents that the benchmarks talk to: they count, check order and take times themselves."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from swell import Agent, App, handler
from swell.histogram import Histogram

app = App("benchmarks")


class Item(msgspec.Struct, array_like=True):
    """One of a sender's messages to one agent: its number, when it was due (microseconds since 1970), and padding."""

    number: int
    due_us: int
    pad: str


class Account(msgspec.Struct):
    """What an agent saw: messages, how many did not follow the one before, and the latencies by bucket."""

    handled: int
    out_of_order: int
    buckets: dict[int, int]


@app.agent("counter")
class Counter(Agent):
    """Counts, and checks that each number follows the one before."""

    def __init__(self) -> None:
        self._next = 0
        self._out_of_order = 0
        self._latency = Histogram()

    @handler
    async def add(self, body: Item) -> None:
        """Take one message."""
        if body.number != self._next:
            self._out_of_order += 1
        self._next = body.number + 1

    @handler
    async def timed(self, body: Item) -> None:
        """Take one message, and the time since it was due."""
        self._latency.record(time.time_ns() // 1000 - body.due_us)
        self._next += 1

    @handler
    async def ping(self, body: Item) -> int:
        """Answer with the number."""
        return body.number

    @handler
    async def account(self) -> Account:
        """Say what was seen since the last time, and begin again."""
        seen = Account(self._next, self._out_of_order, self._latency.sparse())
        self.__init__()  # type: ignore[misc]
        return seen


@app.agent("notary")
class Notary(Agent):
    """Writes every number down, unbuffered, before it returns: an account that survives the process."""

    async def started(self) -> None:
        """Open the file of this agent in this process."""
        path = Path(os.environ["BENCHMARK_ACCOUNT"]) / f"{self.key}.{os.getpid()}"
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    @handler
    async def add(self, body: Item) -> None:
        """Write one number down."""
        os.write(self._file, b"%d\n" % body.number)

    @handler
    async def account(self) -> int:
        """Answer when everything before this is written."""
        return os.getpid()
