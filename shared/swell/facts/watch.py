"""Watching facts: what is there, then every later change.

    follow the shards (their logs begin at version P) --> read what is there --> tell it, except what is newer than P
      ^                                                                                   |
      |                                                                                   v
      +--------- `skipped` <-- the log no longer has our next change <-- tell what the logs add behind P

So nothing is told twice and nothing is left out between the two. Changes of one key, and of all keys of one shard, come
in the order of their versions. Whoever takes changes more slowly than they come is told `skipped` and begins anew, and
so is everybody after the server was flushed or lost what it had; a connection that breaks is resumed without a gap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeVar

from swell.backoff import RECONNECT
from swell.bus.facts import FactChange, StoredFact
from swell.errors import BrokerFull, BrokerRefused, BrokerUnavailable
from swell.facts.follower import Follower, ShardLog
from swell.facts.values import Change, Kind

_T = TypeVar("_T")

_KINDS: dict[str, Kind] = {"put": "put", "delete": "deleted", "expire": "expired"}

#: Reads a page of what is there: behind a key; an empty one is the end.
ReadPage = Callable[[str], Any]


class Watch(Generic[_T]):
    """An async iterator of changes; made by `Facts.watch`. It lasts while it is used, and ends with its client.

    A value that is not of the type asked for raises WireError, once; the next change can be had nevertheless.
    """

    def __init__(
        self,
        follower: Follower,
        shards: Sequence[str],
        page: ReadPage,
        wants: Callable[[str], bool],
        decode: Callable[[str, bytes], _T],
    ) -> None:
        self._follower = follower
        self._shards = shards
        self._page = page
        self._wants = wants
        self._decode = decode
        self._news = asyncio.Event()
        self._logs: list[ShardLog] = []
        self._at: list[int] = []
        self._began: dict[str, int] = {}
        #: What is there and was not told yet; None when the last page was.
        self._there: deque[StoredFact] | None = None
        self._after = ""

    def __aiter__(self) -> AsyncIterator[Change[_T]]:
        return self

    async def __anext__(self) -> Change[_T]:
        """The next change, whenever it comes. Cancelled, it loses none. While the server is away, it waits.

        Raises:
            WireError: its value is not of the type asked for; the next change can be had.
            BrokerRefused: the server will not have us watch.
        """
        if not self._logs:
            await self._begin()
        while True:
            if self._follower.ended:
                raise StopAsyncIteration
            if self._follower.refused is not None:
                raise BrokerRefused(self._follower.refused)
            self._news.clear()
            if any(at < log.first for at, log in zip(self._at, self._logs, strict=True)):
                self._rewind()
                return Change("skipped")
            if self._there is not None:
                told = await self._next_there()
            else:
                told = self._next_change()
                if told is None:
                    await self._news.wait()
            if told is not None:
                return told

    async def _begin(self) -> None:
        self._logs = await asyncio.gather(*map(self._follower.log, self._shards))
        for log in self._logs:
            log.listeners.add(self._news)
        self._rewind()

    def _rewind(self) -> None:
        self._at = [log.next for log in self._logs]
        self._began = {log.shard: log.end for log in self._logs}
        self._there = deque()
        self._after = ""

    async def _next_there(self) -> Change[_T] | None:
        assert self._there is not None
        failures = 0
        while not self._there:
            try:
                shard_facts = await self._page(self._after)
            except (BrokerUnavailable, BrokerFull):
                failures += 1
                await asyncio.sleep(RECONNECT.wait_s(failures))
                continue
            if not shard_facts:
                self._there = None
                return None
            self._after = shard_facts[-1][1].key
            # What is newer than the beginning comes as a change.
            self._there.extend(fact for shard, fact in shard_facts if fact.version <= self._began[shard])
        fact = self._there.popleft()
        return Change("there", fact.key, fact.version, self._decode(fact.key, fact.value))

    def _next_change(self) -> Change[_T] | None:
        """The oldest change of all shards that was not told yet and is wanted."""
        while True:
            ready = [
                (log.get(at).version, place)
                for place, (at, log) in enumerate(zip(self._at, self._logs, strict=True))
                if log.first <= at < log.next
            ]
            if not ready:
                return None
            _, place = min(ready)
            change: FactChange = self._logs[place].get(self._at[place])
            self._at[place] += 1
            if self._wants(change.key):
                kind = _KINDS[change.operation]
                value = self._decode(change.key, change.value) if kind == "put" else None
                return Change(kind, change.key, change.version, value)
