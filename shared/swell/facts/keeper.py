"""Keeping what this process holds: one task renews all seats, and a timer of each says when it is no longer trusted.

    trusted_until = when the renewal was begun + ttl - margin          on this process's own monotonic clock

The server frees a seat `ttl` after its last renewal, on its own clock; a margin earlier we count it as lost, so that
two holders overlap only if a clock runs a tenth faster than the other, or a process stood still. Fencing tokens guard
what is written even then.
"""

from __future__ import annotations

import asyncio
import logging

from swell.backoff import RECONNECT
from swell.bus.facts import FactStore, Seat
from swell.errors import BrokerError

log = logging.getLogger(__name__)

#: Part of the ttl by which a seat counts as lost before the server frees it.
MARGIN = 0.1
#: A seat is renewed when this part of its ttl has passed.
RENEW_AT = 1 / 3
#: Seats of one call.
MOST_AT_ONCE = 256


class Held:
    """A seat that is held: a lock, one place of a semaphore, or a leader's term.

    Attributes:
        name: of the lock.
        token: the fencing token: greater than that of every holder before, of whichever lock in the same shard.
        owner: who holds it, as `swell locks` shows it.
        lost: set when it could not be renewed in time, or is another's; the body of its `async with` is cancelled then.
    """

    def __init__(self, seat: Seat, ttl_ms: int, task: asyncio.Task[object]) -> None:
        self.name = seat.name.partition("/")[2]
        self.token = seat.token
        self.owner = seat.owner
        self.lost = asyncio.Event()
        self.seat = seat
        self.ttl_ms = ttl_ms
        self.renew_at = 0.0
        self._task = task
        self._timer: asyncio.TimerHandle | None = None

    def renewed(self, began: float) -> None:
        """It was renewed by a call that was begun then (the loop's time)."""
        loop = asyncio.get_running_loop()
        ttl_s = self.ttl_ms / 1000
        self.renew_at = began + RENEW_AT * ttl_s
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(began + (1 - MARGIN) * ttl_s, self.lose)

    def lose(self) -> None:
        """It is no longer ours, or may be another's at any moment."""
        if not self.lost.is_set():
            self.end()
            self.lost.set()
            self._task.cancel()

    def end(self) -> None:
        """No more of it."""
        if self._timer is not None:
            self._timer.cancel()


class Keeper:
    """Renews all that this process holds."""

    def __init__(self, broker: FactStore) -> None:
        self._broker = broker
        self._held: set[Held] = set()
        self._news = asyncio.Event()

    def keep(self, held: Held) -> None:
        """Renew this one from now on."""
        self._held.add(held)
        self._news.set()

    def drop(self, held: Held) -> None:
        """Renew this one no more."""
        held.end()
        self._held.discard(held)

    async def run(self) -> None:
        """Renew until cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            self._news.clear()
            next_at = min((held.renew_at for held in self._held if not held.lost.is_set()), default=None)
            try:
                async with asyncio.timeout_at(next_at):
                    await self._news.wait()
                continue  # One more is held: it may be due first.
            except TimeoutError:
                began = loop.time()
            due = [held for held in self._held if held.renew_at <= began and not held.lost.is_set()][:MOST_AT_ONCE]
            if not due:
                continue
            try:
                answers = await self._broker.hold_renew([(held.seat, held.ttl_ms) for held in due])
                failures = 0
            except BrokerError as error:
                failures += 1
                if failures == 1:
                    log.warning("what is held cannot be renewed: %s", error)
                again = began + RECONNECT.wait_s(failures)
                for held in due:
                    # Several tries, whatever the ttl.
                    held.renew_at = min(again, began + MARGIN * held.ttl_ms / 1000)
                continue
            for held, ours in zip(due, answers, strict=True):
                if held not in self._held:
                    continue  # It was given back meanwhile.
                if ours:
                    held.renewed(began)
                else:
                    self.drop(held)
                    held.lose()
