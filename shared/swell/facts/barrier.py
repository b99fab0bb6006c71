"""A barrier: everybody waits until so many have come, then all go on, and the next generation begins.

A party that dies is not counted any more when its ttl has passed; the others wait on, and another may take its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from swell.backoff import RECONNECT
from swell.bus.facts import Arrival
from swell.errors import BarrierBroken, BrokerError, BrokerFull, BrokerUnavailable, InUse
from swell.facts.seats import KEEP_AT, LEAVE_TIMEOUT_S, Desk


class Barrier:
    """A barrier of one name; made by `Facts.barrier`, and used again for every generation."""

    def __init__(self, desk: Desk, shard: str, name: str, parties: int, ttl_ms: int, party: Callable[[], str]) -> None:
        self.name = name
        self.parties = parties
        self._desk = desk
        self._shard = shard
        self._ttl_ms = ttl_ms
        self._party = party

    async def wait(self) -> int:
        """Come, and wait until `parties` are there; returns the generation, a number that grows and all are given.

        Cancelled, it leaves, and is not counted any more. While the server is away, it waits.

        Raises:
            InUse: others wait here for another number of parties.
            BarrierBroken: this party is no longer counted: it was silent for longer than its ttl, or the server was
                flushed, or lost what it had.
        """
        party = self._party()
        try:
            answer = await self._arrive(party, come=True)
            if answer.status == "waiting":
                answer = await self._passed(party)
        except BaseException:
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(LEAVE_TIMEOUT_S):
                    await self._desk.broker.arrive(self._shard, self.name, party, self.parties, 0, come=False)
            raise
        if answer.status == "refused":
            raise InUse(f"barrier {self.name!r}", "number of parties", answer.number)
        if answer.status == "forgotten":
            raise BarrierBroken(self.name)
        return answer.number

    async def _passed(self, party: str) -> Arrival:
        async with self._desk.follower.waiting(self._shard, self.name) as turn:
            while True:
                turn.clear()
                answer = await self._arrive(party, come=False)
                if answer.status != "waiting":
                    return answer
                with suppress(TimeoutError):
                    async with asyncio.timeout(KEEP_AT * self._ttl_ms / 1000):
                        await turn.wait()

    async def _arrive(self, party: str, *, come: bool) -> Arrival:
        failures = 0
        while True:
            try:
                return await self._desk.broker.arrive(
                    self._shard, self.name, party, self.parties, self._ttl_ms, come=come
                )
            except (BrokerUnavailable, BrokerFull):
                failures += 1
                await asyncio.sleep(RECONNECT.wait_s(failures))
