"""A barrier: everybody waits until so many have come, then all go on, and the next generation begins.

A party that dies is not counted any more when its ttl has passed; the others wait on, and another may take its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from swell.backoff import RECONNECT
from swell.bus.facts import Arrival
from swell.errors import BarrierBroken, BrokerError, BrokerFull, BrokerUnavailable, InUse
from swell.facts.seats import KEEP_AT, LEAVE_TIMEOUT_S, Desk, deadline, left_s


@dataclass(frozen=True, slots=True)
class Attendance:
    """What became of coming to a barrier.

    Attributes:
        arrived: how many were there when it came, itself among them.
        present: how many are there now.
        generation: the one that it passed with; None if not all have come.
    """

    arrived: int
    present: int
    generation: int | None


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
        generation = (await self.attend(None)).generation
        assert generation is not None
        return generation

    async def attend(self, wait_s: float | None) -> Attendance:
        """As `wait`, for so many seconds at most, None for ever; who was not let on by then is not counted any more.

        Raises:
            InUse: as `wait`.
            BarrierBroken: as `wait`.
            BrokerUnavailable: the server was away for all of `wait_s`.
        """
        party = self._party()
        try:
            found = await self.come(party, wait_s)
            if found.generation is None:
                left = await self._desk.broker.arrive(self._shard, self.name, party, self.parties, 0, come=False)
                if left.status == "passed":  # In the last moment.
                    return Attendance(found.arrived, self.parties, left.number)
        except BaseException:
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(LEAVE_TIMEOUT_S):
                    await self._desk.broker.arrive(self._shard, self.name, party, self.parties, 0, come=False)
            raise
        return found

    async def come(self, party: str, wait_s: float | None) -> Attendance:
        """Come as a party that is named, or come again, and wait; it is counted for its ttl after that.

        Raises:
            InUse: as `wait`.
            BarrierBroken: as `wait`.
            BrokerUnavailable: the server was away for all of `wait_s`.
        """
        until = deadline(wait_s)
        answer = await self._arrive(party, until, come=True)
        arrived = answer.number if answer.status == "waiting" else self.parties
        if answer.status == "waiting" and left_s(until) > 0:
            answer = await self._passed(party, until, answer)
        if answer.status == "refused":
            raise InUse(f"barrier {self.name!r}", "number of parties", answer.number)
        if answer.status == "forgotten":
            raise BarrierBroken(self.name)
        if answer.status == "waiting":
            return Attendance(arrived, answer.number, None)
        return Attendance(arrived, self.parties, answer.number)

    async def _passed(self, party: str, until: float | None, answer: Arrival) -> Arrival:
        with suppress(TimeoutError):
            async with self._desk.follower.waiting(self._shard, self.name, until) as turn:
                while True:
                    turn.clear()
                    answer = await self._arrive(party, until, come=False)
                    if answer.status != "waiting" or left_s(until) <= 0:
                        break
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(KEEP_AT * self._ttl_ms / 1000, left_s(until))):
                            await turn.wait()
        return answer

    async def _arrive(self, party: str, until: float | None, *, come: bool) -> Arrival:
        failures = 0
        while True:
            try:
                return await self._desk.broker.arrive(
                    self._shard, self.name, party, self.parties, self._ttl_ms, come=come
                )
            except (BrokerUnavailable, BrokerFull):
                failures += 1
                if left_s(until) <= 0:
                    raise
                await asyncio.sleep(min(RECONNECT.wait_s(failures), left_s(until)))
