"""The agents that are measured with: they count, check order and take times themselves, and are asked at the end.

A deployment is measured with `swell worker --app swell.bench.agents:app`.
"""

from __future__ import annotations

import time

import msgspec

from swell.agent import Agent, handler
from swell.app import App
from swell.histogram import Histogram

app = App("bench")
TYPE = "bench"


class Item(msgspec.Struct, array_like=True, gc=False):
    """One message: which sender's, its number among those of that sender to this agent, when it was due, and padding.

    `due_us` is microseconds since 1970.
    """

    sender: int
    number: int
    due_us: int
    pad: str


class Account(msgspec.Struct):
    """What an agent saw.

    Attributes:
        handled: messages.
        duplicated: those that it had seen before.
        reordered: those that came before one that was sent earlier.
        buckets: latencies by bucket of `swell.histogram`.
    """

    handled: int = 0
    duplicated: int = 0
    reordered: int = 0
    buckets: dict[int, int] = {}

    def add(self, other: Account) -> None:
        """Add what another agent saw."""
        self.handled += other.handled
        self.duplicated += other.duplicated
        self.reordered += other.reordered
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count


@app.agent(TYPE, timeout=None)
class Bench(Agent):
    """Counts, and checks that each number of a sender follows the one before."""

    def __init__(self) -> None:
        self._account = Account()
        # Made with the first latency: an idle agent shall show what an agent costs, not what this one measures with.
        self._latency: Histogram | None = None
        self._next: dict[int, int] = {}

    def _count(self, body: Item) -> None:
        account = self._account
        account.handled += 1
        expected = self._next.get(body.sender, 0)
        if body.number == expected:
            self._next[body.sender] = expected + 1
        elif body.number < expected:
            account.duplicated += 1
        else:
            account.reordered += 1
            self._next[body.sender] = body.number + 1

    @handler
    async def take(self, body: Item) -> None:
        """Take one message."""
        self._count(body)

    @handler
    async def timed(self, body: Item) -> None:
        """Take one message, and the time since it was due."""
        if self._latency is None:
            self._latency = Histogram()
        self._latency.record(time.time_ns() // 1000 - body.due_us)
        self._count(body)

    @handler
    async def nothing(self, body: msgspec.Raw) -> None:
        """Take one message and do not look at it: what the raw path does."""
        self._account.handled += 1

    @handler
    async def echo(self, body: Item) -> int:
        """Answer with the number."""
        self._account.handled += 1
        return body.number

    @handler
    async def account(self) -> Account:
        """Say what was seen since the last time; numbers go on."""
        seen, self._account = self._account, Account()
        if self._latency is not None:
            seen.buckets = self._latency.sparse()
            self._latency.clear()
        return seen
