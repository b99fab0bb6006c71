"""Locks, semaphores and leaders: a name with seats, and a line of those who wait for one, served in order.

ask --held--> body --end--> given back, and the next in line is let in at once
 |              |
 |              +-- not renewed in time --> lost: the body is cancelled, LockLost is raised
 +--waiting--> told when it is our turn; asked again when the seat before us may lapse, and to keep our place
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from swell.backoff import RECONNECT
from swell.bus.facts import FactStore, HoldAnswer, Seat
from swell.errors import BrokerError, BrokerFull, BrokerUnavailable, InUse, LockLost
from swell.facts.follower import Follower
from swell.facts.keeper import Held, Keeper

#: How long giving back may take before it is left to the ttl, seconds.
LEAVE_TIMEOUT_S = 1.0
#: A place in a line, or at a barrier, is kept by a call when this part of its ttl has passed.
KEEP_AT = 1 / 3


@dataclass(frozen=True, slots=True)
class Desk:
    """What one process has for all its locks and barriers; `numbers` tell its owners apart."""

    broker: FactStore
    follower: Follower
    keeper: Keeper
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


@dataclass(frozen=True, slots=True)
class Wish:
    """A seat that somebody wants: where, which, who, of how many, for how long unless renewed."""

    shard: str
    name: str
    owner: str
    limit: int
    ttl_ms: int


@asynccontextmanager
async def seat(desk: Desk, wish: Wish) -> AsyncIterator[Held]:
    """Hold one seat for as long as the body runs.

    Raises:
        InUse: others use the name with another limit.
        LockLost: it was lost while the body ran; the body was cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    began, token = await _taken(desk, wish)
    cancelling = task.cancelling()
    held = Held(Seat(wish.shard, wish.name, wish.owner, token), wish.ttl_ms, task)
    held.renewed(began)
    desk.keeper.keep(held)
    try:
        yield held
        if held.lost.is_set():
            # The body ended in the moment of the loss, and its cancellation is still on its way; or it took no notice.
            await asyncio.sleep(0)
            task.uncancel()
    except asyncio.CancelledError:
        if not held.lost.is_set() or task.uncancel() > cancelling:
            raise
    except BaseException:
        if held.lost.is_set():
            task.uncancel()
        raise
    finally:
        desk.keeper.drop(held)
        if not held.lost.is_set():
            await _leave(desk, held.seat)
    if held.lost.is_set():
        raise LockLost(held.name, held.token)


async def _taken(desk: Desk, wish: Wish) -> tuple[float, int]:
    """Wait for a seat; returns when the call began that has it, and its token."""
    try:
        began, answer = await _ask(desk, wish)
        if answer.status == "waiting":
            async with desk.follower.waiting(wish.shard, wish.owner) as turn:
                while True:
                    turn.clear()
                    began, answer = await _ask(desk, wish)
                    if answer.status != "waiting":
                        break
                    wait_s = KEEP_AT * wish.ttl_ms / 1000
                    if answer.ahead == 0 and answer.next_ms >= 0:
                        wait_s = min(wait_s, (answer.next_ms + 1) / 1000)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await turn.wait()
    except BaseException:
        await _leave(desk, Seat(wish.shard, wish.name, wish.owner, 0))
        raise
    if answer.status == "refused":
        kind, _, name = wish.name.partition("/")
        raise InUse(f"{kind} {name!r}", "limit", answer.limit)
    return began, answer.token


async def _ask(desk: Desk, wish: Wish) -> tuple[float, HoldAnswer]:
    """Ask once, for as long as the server is away."""
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        began = loop.time()
        try:
            return began, await desk.broker.hold(wish.shard, wish.name, wish.owner, wish.limit, wish.ttl_ms)
        except (BrokerUnavailable, BrokerFull):
            failures += 1
            await asyncio.sleep(RECONNECT.wait_s(failures))


async def _leave(desk: Desk, seat: Seat) -> None:
    """Give back, or leave the line; if the server does not answer, the ttl does it."""
    with suppress(BrokerError, TimeoutError):
        async with asyncio.timeout(LEAVE_TIMEOUT_S):
            await desk.broker.hold_leave(seat)
