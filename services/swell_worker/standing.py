"""Whether this worker takes shards: an operator's word, kept as the fact `$worker/<process>`.

    fact put    --> held: our heartbeats say so, the others share the shards without us, we hand over all of ours
    vacant      --> we own none any more: written into the fact, for whoever waits for a drain
    fact gone   --> we take our share again

The fact outlives the server's restart, and us: unless we renew it, it expires.
"""

from __future__ import annotations

import asyncio
import logging

from msgspec import structs

from swell.backoff import RECONNECT
from swell.bus.consumer import Consumer
from swell.errors import BrokerError, FactConflict, SwellError
from swell.facts import Fact, Facts
from swell.facts.board import SystemFacts
from swell.holds import WORKER_HOLD_S, WORKER_PREFIX, WorkerHold

log = logging.getLogger(__name__)

#: How often the fact is renewed, seconds.
RENEW_S = WORKER_HOLD_S / 24


class Standing:
    """Follows what an operator wants of this worker.

    Args:
        facts: where it is kept.
        process: our name.
        consumer: owns our shards.
    """

    def __init__(self, facts: Facts, process: str, consumer: Consumer) -> None:
        self._facts = SystemFacts(facts)
        self._key = WORKER_PREFIX + process
        self._consumer = consumer
        self._held: Fact[WorkerHold] | None = None
        self._news = asyncio.Event()

    def look(self) -> None:
        """Shards may have come or gone."""
        if self._held is not None and not self._held.value.vacant and not self._consumer.owned:
            self._news.set()

    async def run(self) -> None:
        """Follow, until cancelled."""
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow())
            try:
                await self._tell()
            finally:
                following.cancel()

    async def _follow(self) -> None:
        """Look at the fact whenever it changes; a server that refuses us now may have us later."""
        failures = 0
        while True:
            try:
                async for _ in self._facts.watch(self._key, WorkerHold):
                    failures = 0
                    await self._read()
                return  # Our client has ended.
            except SwellError as error:
                failures += 1
                self._complain(failures, error)
                await asyncio.sleep(RECONNECT.wait_s(failures))

    async def _read(self) -> None:
        failures = 0
        while True:
            try:
                self._held = await self._facts.get(self._key, WorkerHold)
                break
            except SwellError as error:
                failures += 1
                self._complain(failures, error)
                await asyncio.sleep(RECONNECT.wait_s(failures))
        self._consumer.hold(self._held is not None)
        self._news.set()

    async def _tell(self) -> None:
        """Write that we own nothing any more, and renew what would expire."""
        failures = 0
        while True:
            try:
                async with asyncio.timeout(RENEW_S if self._held is not None else None):
                    await self._news.wait()
                renew = False
            except TimeoutError:
                renew = True
            self._news.clear()
            held = self._held
            if held is None or not (renew or (not held.value.vacant and not self._consumer.owned)):
                continue
            value = structs.replace(held.value, vacant=not self._consumer.owned)
            try:
                await self._facts.swap(self._key, held.version, value, ttl=WORKER_HOLD_S)
                failures = 0
            except FactConflict:
                continue  # It has changed, and we are about to hear of it.
            except BrokerError as error:
                failures += 1
                self._complain(failures, error)
                await asyncio.sleep(RECONNECT.wait_s(failures))
                self._news.set()

    def _complain(self, failures: int, error: SwellError) -> None:
        if failures == 1:
            log.warning("whether this worker is paused is looked at again: %s", error)
