"""Workers that are to own no shard: paused and drained by a fact, `$worker/<process>`, which the worker follows.

fact put --> the worker hands its shards over --> it writes `vacant` into the fact --> a drain returns
                          |
                          +-- it dies --> its leases lapse: it owns nothing, but tells nobody --> looked for
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from swell.clock import now_ms
from swell.errors import BrokerUnavailable, CallTimeout, Cancelled, WireError, WrongBody
from swell.facts.board import SystemFacts
from swell.facts.values import MOST_LISTED, decode_value
from swell.holds import WORKER_HOLD_S, WORKER_PREFIX, WORKERS_LOCK, WorkerHold
from swell.submitting import Submitting

if TYPE_CHECKING:
    from swell.facts import Facts

log = logging.getLogger(__name__)

#: How often a drain looks whether its worker still lives, seconds.
LOOK_S = 1.0


class HoldingWorkers(Submitting):
    """What a client does to workers; see `Client.pause`, `resume` and `drain`."""

    facts: Facts

    async def _hold_worker(self, worker: str, reason: str, force: bool) -> None:
        async with self._workers_lock():
            living = await self._living()
            if worker not in living:
                raise _unknown(worker)
            held = await self._held_workers()
            if worker in held:
                return
            if not living - held - {worker} and not force:
                said = f"worker: {worker} is the last that takes shards: no agent would be hosted; force it to do that"
                raise WrongBody("", said, field="worker")
            hold = WorkerHold(reason, now_ms())
            await SystemFacts(self.facts).put(WORKER_PREFIX + worker, hold, ttl=WORKER_HOLD_S)

    async def _release_worker(self, worker: str) -> None:
        """Take a worker's pause back; of one that is dead, too."""
        held = await SystemFacts(self.facts).delete(WORKER_PREFIX + worker)
        if not held and worker not in await self._living():
            raise _unknown(worker)

    async def _vacant(self, worker: str, timeout: float) -> None:
        """Return when a paused worker owns nothing."""
        watch = self.facts.watch(WORKER_PREFIX + worker, WorkerHold)
        try:
            async with asyncio.timeout(timeout):
                while not await self._owns_nothing(worker):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_S):
                            await anext(watch)
        except TimeoutError:
            raise CallTimeout(worker, "drain", timeout) from None
        except StopAsyncIteration:
            raise BrokerUnavailable(f"{worker} may own shards yet: this client has ended") from None

    async def _owns_nothing(self, worker: str) -> bool:
        """Whether a paused worker says so, or has died and its leases have lapsed; while the server is away, no.

        Raises:
            Cancelled: it is not paused any more.
        """
        try:
            hold = await self.facts.get(WORKER_PREFIX + worker, WorkerHold)
            if hold is None:
                raise Cancelled("", f"{worker} was resumed meanwhile")
            if hold.value.vacant or worker in await self._living():
                return hold.value.vacant
            return not any(lease.owner == worker and lease.remaining_ms for lease in await self.leases())
        except BrokerUnavailable:
            return False

    async def _living(self) -> set[str]:
        return {info.process for info in await self.workers()}

    async def _held_workers(self) -> set[str]:
        """Who is paused by a fact that its worker can read, whether it lives or not."""
        held: set[str] = set()
        for fact in await self.facts.page(WORKER_PREFIX, MOST_LISTED):
            worker = fact.key.removeprefix(WORKER_PREFIX)
            try:
                decode_value(fact.key, fact.value, WorkerHold)
            except WireError as error:
                log.warning("passed over: %s; `swell resume --worker %s` deletes it", error, worker)
            else:
                held.add(worker)
        return held

    @asynccontextmanager
    async def _workers_lock(self) -> AsyncIterator[None]:
        """So that two that pause at once do not pause the last two workers."""
        async with SystemFacts(self.facts).lock(WORKERS_LOCK):
            yield


def _unknown(worker: str) -> WrongBody:
    return WrongBody("", f"worker: no worker {worker!r} lives; `swell workers` lists them", field="worker")
