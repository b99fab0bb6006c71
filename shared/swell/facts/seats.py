"""Locks, semaphores and leaders: a name with seats, and a line of those who wait for one, served in order.

ask --held--> body --end--> given back, and the next in line is let in at once
 |              |
 |              +-- not renewed in time --> lost: the body is cancelled, LockLost is raised
 +--waiting--> told when it is our turn; asked again when the seat before us may lapse, and to keep our place
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from swell.backoff import RECONNECT
from swell.bus.facts import ANY_TOKEN, NO_TOKEN, FactStore, HoldAnswer, HoldState, Seat
from swell.errors import BrokerError, BrokerFull, BrokerUnavailable, InUse, LockHeld, LockLost
from swell.facts.follower import Follower
from swell.facts.keeper import Held, Keeper
from swell.facts.values import lock_view

#: How long giving back may take before it is left to the ttl, seconds.
LEAVE_TIMEOUT_S = 1.0
#: A place in a line, or at a barrier, is kept by a call when this part of its ttl has passed.
KEEP_AT = 1 / 3
#: Names of one page when one of them is looked for.
_PAGE = 100


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
async def seat(desk: Desk, wish: Wish, wait_s: float | None = None) -> AsyncIterator[Held]:
    """Hold one seat for as long as the body runs.

    Raises:
        LockHeld: others held it for all of `wait_s`.
        InUse: others use the name with another limit.
        LockLost: it was lost while the body ran; the body was cancelled.
    """
    task = asyncio.current_task()
    assert task is not None
    began, token = await _taken(desk, wish, wait_s)
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


async def _taken(desk: Desk, wish: Wish, wait_s: float | None) -> tuple[float, int]:
    """Wait for a seat; returns when the call began that has it, and its token."""
    try:
        began, answer = await _admitted(desk, wish, deadline(wait_s))
        if answer.status == "waiting":
            raise _held_by_others(wish, await looked_up(desk.broker, wish.shard, wish.name))
    except BaseException:
        await _leave(desk, Seat(wish.shard, wish.name, wish.owner, ANY_TOKEN))
        raise
    return began, answer.token


async def claim(desk: Desk, wish: Wish, wait_s: float) -> Seat:
    """Take a seat for an owner who renews it by asking again; asked by two at once, both are given the same one.

    Raises:
        LockHeld: others held it for all of `wait_s`; the place in the line is given up.
        InUse: others use the name with another limit.
        BrokerUnavailable: the server was away for all of `wait_s`.
    """
    own = Seat(wish.shard, wish.name, wish.owner, NO_TOKEN)
    try:
        _, answer = await _admitted(desk, wish, deadline(wait_s))
    except BaseException:
        await _leave(desk, own)
        raise
    if answer.status == "held":
        return own._replace(token=answer.token)
    # A seat may be given to it until it has left the line; somebody else may have been told so, so it is not returned.
    await _leave(desk, own)
    state = await looked_up(desk.broker, wish.shard, wish.name)
    for holder in state.holders if state is not None else ():
        if holder.owner == wish.owner:
            return own._replace(token=holder.token)
    raise _held_by_others(wish, state)


async def looked_up(broker: FactStore, shard: str, name: str) -> HoldState | None:
    """Who holds one name; None if nobody holds or waits for it."""
    after = name[:-1]
    while page := await broker.hold_list(shard, after, _PAGE):
        for state in page:
            if state.name == name:
                return state
        after = page[-1].name
    return None


def deadline(wait_s: float | None) -> float | None:
    """When a wait that begins now is over, by the loop's clock; None for never."""
    return None if wait_s is None else asyncio.get_running_loop().time() + wait_s


def _held_by_others(wish: Wish, state: HoldState | None) -> LockHeld:
    holders = lock_view(state).holders if state is not None else []
    kind, _, name = wish.name.partition("/")
    return LockHeld(kind, name, holders)


async def _admitted(desk: Desk, wish: Wish, until: float | None) -> tuple[float, HoldAnswer]:
    """Ask, and wait for one's turn; answered `waiting` when the time is over: then it is still in the line."""
    began, answer = await _ask(desk, wish, until)
    if answer.status == "waiting" and left_s(until) > 0:
        with suppress(TimeoutError):
            async with desk.follower.waiting(wish.shard, wish.owner, until) as turn:
                while True:
                    turn.clear()
                    began, answer = await _ask(desk, wish, until)
                    if answer.status != "waiting" or left_s(until) <= 0:
                        break
                    wait_s = min(KEEP_AT * wish.ttl_ms / 1000, left_s(until))
                    if answer.ahead == 0 and answer.next_ms >= 0:
                        wait_s = min(wait_s, (answer.next_ms + 1) / 1000)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await turn.wait()
    if answer.status == "refused":
        kind, _, name = wish.name.partition("/")
        raise InUse(f"{kind} {name!r}", "limit", answer.limit)
    return began, answer


async def _ask(desk: Desk, wish: Wish, until: float | None) -> tuple[float, HoldAnswer]:
    """Ask once, for as long as the server is away."""
    loop = asyncio.get_running_loop()
    failures = 0
    while True:
        began = loop.time()
        try:
            return began, await desk.broker.hold(wish.shard, wish.name, wish.owner, wish.limit, wish.ttl_ms)
        except (BrokerUnavailable, BrokerFull):
            failures += 1
            if left_s(until) <= 0:
                raise
            await asyncio.sleep(min(RECONNECT.wait_s(failures), left_s(until)))


def left_s(until: float | None) -> float:
    """Seconds until a deadline."""
    return math.inf if until is None else max(0.0, until - asyncio.get_running_loop().time())


async def _leave(desk: Desk, seat: Seat) -> None:
    """Give back, or leave the line; if the server does not answer, the ttl does it."""
    with suppress(BrokerError, TimeoutError):
        async with asyncio.timeout(LEAVE_TIMEOUT_S):
            await desk.broker.hold_leave(seat)
