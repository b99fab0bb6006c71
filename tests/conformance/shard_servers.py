"""Where the property tests of the shard run, and how long: one runner for many histories of one server."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from redis.asyncio import Redis

from swell.bus.memory import MemoryBroker, MemoryServer
from swell.bus.redis import RedisBroker
from tests.conformance.backends import FakeClock
from tests.conformance.shard_model import Violation
from tests.conformance.shard_world import LEASE_MS, SHARD, World, play

History = list[tuple[Any, ...]]

#: Histories of one test in the short size, and how many times as many in the long one.
IN_MEMORY, ON_SERVER = 1000, 120
LONG_FACTOR = 50

#: Mostly whoever owns the shard now, or histories would be full of refusals.
_OWNERS = ("holder",) * 8 + ("ada", "bob", "eve")
_ANYBODY = ("ada", "bob", "eve")
_FAULTS = ("none", "none", "none", "none", "never", "lost", "lost", "twice")
#: How often each step comes, among all.
_WEIGHTS = {
    "append": 6,
    "read": 5,
    "handle": 7,
    "settle": 6,
    "acquire": 2,
    "take_over": 1,
    "renew": 1,
    "hand_over": 0.7,
    "crash": 0.7,
    "late": 1,
    "late_settle": 1,
    "replay": 0.5,
    "drop_letter": 0.3,
    "lapse": 0.5,
}


def draw_step(rng: random.Random) -> tuple[Any, ...]:
    """One step, with its arguments."""
    (step,) = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
    fault, owner = rng.choice(_FAULTS), rng.choice(_OWNERS)
    if step == "append":
        agents = rng.choices(("a", "b"), k=rng.randint(1, 5))
        return step, rng.choice(("p", "q")), agents, rng.randint(1, 3), fault
    if step == "read":
        return step, owner, rng.randint(1, 4), "lost" if fault == "twice" else fault
    if step == "handle":
        return (
            step,
            owner,
            rng.choice(("a", "b")),
            rng.randint(1, 4),
            rng.choice(("ok", "ok", "fail", "give_up", "late")),
        )
    if step == "settle":
        return step, owner, rng.randint(0, 2), fault
    if step in ("acquire", "take_over"):
        return step, rng.choice(_ANYBODY), fault
    if step in ("renew", "hand_over"):
        return step, owner, fault
    if step == "crash":
        return step, owner
    if step in ("replay", "drop_letter"):
        return step, rng.randrange(30), fault
    return (step, rng.randrange(30)) if step in ("late", "late_settle") else (step,)


def draw_history(rng: random.Random) -> History:
    """A history that begins with an owner."""
    return [("acquire", "ada", "none"), *(draw_step(rng) for _ in range(rng.randint(20, 100)))]


class Place(Protocol):
    """A server, as histories need it."""

    async def play(self, history: History) -> None:
        """Run one history in a namespace of its own."""
        ...


class InMemory:
    """A new memory server for each history."""

    @asynccontextmanager
    async def scene(self) -> AsyncIterator[World]:
        """A world of its own."""
        clock = FakeClock()

        async def lapse() -> None:
            clock.us += (LEASE_MS + 1) * 1000

        broker = MemoryBroker(MemoryServer(clock), "test")
        await broker.open(1)
        yield World(broker, lapse)

    async def play(self, history: History) -> None:
        async with self.scene() as world:
            await play(world, history)


class OnServer:
    """A real server. A lease lapses when the server's own note of it is set into the past."""

    def __init__(self, url: str, broker: type[RedisBroker] = RedisBroker) -> None:
        self._url = url
        self._broker = broker
        self._name = uuid.uuid4().hex[:8]
        self._numbers = itertools.count()

    @asynccontextmanager
    async def scene(self) -> AsyncIterator[World]:
        """A world in a namespace of its own."""
        namespace = f"{self._name}-{next(self._numbers)}"
        client: Any = Redis.from_url(self._url, protocol=2)
        broker = self._broker(self._url, namespace)

        async def lapse() -> None:
            key = f"swell:{namespace}:{{{SHARD}}}:lease"
            if await client.hget(key, "owner"):
                await client.hset(key, "expires", 1)

        try:
            await broker.open(1)
            yield World(broker, lapse)
        finally:
            await broker.close()
            keys = [key async for key in client.scan_iter(f"swell:{namespace}:*", count=1000)]
            if keys:
                await client.delete(*keys)
            await client.aclose()

    async def play(self, history: History) -> None:
        async with self.scene() as world:
            await play(world, history)


def explore(place: Place, histories: int, seed: int = 0) -> None:
    """Play so many histories; the first that breaks a promise is made short and raised.

    Args:
        place: where.
        histories: how many.
        seed: what they are drawn from: the same seed draws the same histories, one by one.

    Raises:
        Violation: an invariant does not hold; says which, in which history, and what is left of it.
    """
    with asyncio.Runner() as runner:

        def broken(history: History) -> Violation | None:
            try:
                runner.run(place.play(history))
            except Violation as violation:
                return violation
            return None

        for number in range(histories):
            history = draw_history(random.Random(f"{seed} {number}"))
            violation = broken(history)
            if violation is not None:
                history, violation = shorten(history, violation, broken)
                steps = "\n".join(map(repr, history))
                raise Violation(f"{violation}\nin history {number} of seed {seed}, of which these matter:\n{steps}")


def shorten(
    history: History, violation: Violation, broken: Callable[[History], Violation | None]
) -> tuple[History, Violation]:
    """Leave out steps, many at first, as long as what remains breaks a promise too."""
    size = len(history) // 2
    while size:
        at = 0
        while at < len(history):
            shorter = history[:at] + history[at + size :]
            found = broken(shorter)
            if found is None:
                at += size
            else:
                history, violation = shorter, found
        size //= 2
    return history, violation
