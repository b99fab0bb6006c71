"""Reads what changes, once for all who wait in this process: one blocking read over the shards that anybody waits for.

    watch ---> log(shard)          the newest changes of a shard, as far as they were read here
    lock  ---> waiting(shard, ...) an event that is set when it may be one's turn

    unknown --fact_tail--> followed from the newest version --fact_follow--> changes into logs, turns into events
                               |
                               +-- a change that does not follow the one before it (trimmed, flushed, rewound):
                                   the log skips, and every watch of it begins anew

A fact that expires becomes a change when somebody looks: `fact_tail` says when the next one does, and the blocking read
ends then. Nothing is polled; a read that nothing ends is begun again after BLOCK_MS, as all of ours are.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from weakref import WeakSet, WeakValueDictionary

from swell.backoff import RECONNECT
from swell.bus.facts import FactChange, FactStore, Turn
from swell.errors import BrokerError, BrokerRefused

log = logging.getLogger(__name__)

#: How long one read waits at most, milliseconds.
BLOCK_MS = 2000
#: Changes of one shard that are kept here for watches that are behind, and bytes of their keys and values.
KEEP_CHANGES, KEEP_BYTES = 4096, 4 << 20


class ShardLog:
    """The newest changes of one shard, numbered as they come.

    Attributes:
        first: number of the oldest change that is kept.
        next: number that the next change gets.
        end: version of the newest change that was read.
        followed: set when changes from `end` on are read.
        listeners: events that are set when something is added.
    """

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.first = self.next = 0
        self.end = 0
        self.followed = asyncio.Event()
        self.listeners: WeakSet[asyncio.Event] = WeakSet()
        self._changes: deque[FactChange] = deque()
        self._bytes = 0

    def begin(self, version: int) -> None:
        """Changes behind this version will be read."""
        self.end = version
        self.followed.set()

    def add(self, change: FactChange) -> None:
        """The next change; if it does not follow the last one, something was missed."""
        if change.before != self.end:
            self.skip(change.before)
        self.end = change.version
        self._changes.append(change)
        self.next += 1
        self._bytes += len(change.key) + len(change.value)
        while len(self._changes) > 1 and (len(self._changes) > KEEP_CHANGES or self._bytes > KEEP_BYTES):
            oldest = self._changes.popleft()
            self.first += 1
            self._bytes -= len(oldest.key) + len(oldest.value)
        self.tell()

    def skip(self, version: int) -> None:
        """Changes up to this version were missed: every watch is behind now."""
        self._changes.clear()
        self._bytes = 0
        self.next += 1
        self.first = self.next
        self.end = version
        self.tell()

    def get(self, number: int) -> FactChange:
        """A change that is kept."""
        return self._changes[number - self.first]

    def tell(self) -> None:
        """Wake those who watch."""
        for listener in list(self.listeners):
            listener.set()


class Follower:
    """All that this process follows.

    Attributes:
        ended: whether watches are to end.
        refused: why the server will not have us follow, None if it does.
    """

    def __init__(self, broker: FactStore) -> None:
        self._broker = broker
        #: Of those that a watch holds; whoever stops watching is forgotten with it.
        self._logs: WeakValueDictionary[str, ShardLog] = WeakValueDictionary()
        self._waiting: dict[str, dict[str, set[asyncio.Event]]] = {}
        self._turns: dict[str, int] = {}
        self._turns_followed: dict[str, asyncio.Event] = {}
        self._wanted = asyncio.Event()
        self.ended = False
        self.refused: str | None = None
        self._reading = False
        self._tail_at = 0.0

    async def log(self, shard: str) -> ShardLog:
        """The log of a shard, which is followed for as long as the caller keeps it. Waits while the server is away.

        Raises:
            BrokerRefused: the server will not have us follow.
        """
        found = self._logs.get(shard)
        if found is None:
            found = self._logs[shard] = ShardLog(shard)
            await self._hurry()
        if not self.ended:
            await self._until(found.followed)
        return found

    async def _until(self, followed: asyncio.Event) -> None:
        await followed.wait()
        if self.refused is not None:
            raise BrokerRefused(self.refused)

    @asynccontextmanager
    async def waiting(self, shard: str, whom: str, until: float | None = None) -> AsyncIterator[asyncio.Event]:
        """An event that is set when an owner is let in, or a barrier's name is passed; and whenever that is unknown.

        Waits until turns are followed, so what happens from then on is told.

        Raises:
            TimeoutError: that took until `until`, by the loop's clock.
        """
        event = asyncio.Event()
        of_shard = self._waiting.setdefault(shard, {})
        of_shard.setdefault(whom, set()).add(event)
        try:
            if shard not in self._turns:
                followed = self._turns_followed.setdefault(shard, asyncio.Event())
                async with asyncio.timeout_at(until):
                    await self._hurry()
                    await self._until(followed)
            yield event
        finally:
            of_shard[whom].discard(event)
            if not of_shard[whom]:
                del of_shard[whom]
            if not of_shard:
                self._waiting.pop(shard, None)

    def end(self) -> None:
        """Have all watches end."""
        self.ended = True
        for one in list(self._logs.values()):
            one.followed.set()
            one.tell()

    async def _hurry(self) -> None:
        """Have the read that waits now begin again, with what is wanted now."""
        self._wanted.set()
        if self._reading:
            with suppress(BrokerError):
                await self._broker.fact_wake()

    async def run(self) -> None:
        """Follow until cancelled; nothing is asked of the server before somebody waits."""
        failures = 0
        while True:
            await self._wanted.wait()
            try:
                await self._round()
                failures = 0
                self.refused = None
            except BrokerError as error:
                failures += 1
                self._tail_at = 0.0
                if failures == 1:
                    log.warning("watches and lines wait: %s", error)
                if isinstance(error, BrokerRefused):
                    self._refuse(str(error))
                # Whose turn came meanwhile is asked for by each, not guessed.
                self._wake_all()
                await asyncio.sleep(RECONNECT.wait_s(failures))

    def _refuse(self, why: str) -> None:
        """Tell those who watch, or are about to wait, that it will not be; the next try may find otherwise."""
        self.refused = why
        events = [one.followed for one in list(self._logs.values()) if not one.followed.is_set()]
        events += [event for event in self._turns_followed.values() if not event.is_set()]
        for event in events:
            event.set()
            event.clear()
        for one in list(self._logs.values()):
            one.tell()

    async def _round(self) -> None:
        """Find out where new shards begin, then read once."""
        behind = await self._tail()
        changes = {shard: one.end for shard, one in list(self._logs.items()) if one.followed.is_set()}
        if not changes and not self._turns:
            if not self._logs and not self._waiting:
                self._wanted.clear()
            return
        left_ms = 0 if behind else max(1, round((self._tail_at - asyncio.get_running_loop().time()) * 1000))
        self._reading = True
        try:
            # What was wanted since the tail was read is not in these maps, and nobody could hurry us yet.
            if self._new():
                return
            found, turns = await self._broker.fact_follow(changes, dict(self._turns), min(left_ms, BLOCK_MS))
        finally:
            self._reading = False
        self._take(found)
        self._give(turns)
        for shard in behind.keys() - {change.shard for change in found}:
            # Something is there that is not in the stream, or no longer: flushed, or rewound.
            if (one := self._logs.get(shard)) is not None:
                one.skip(behind[shard])

    def _new(self) -> bool:
        return any(not one.followed.is_set() for one in list(self._logs.values())) or bool(
            self._waiting.keys() - self._turns.keys()
        )

    async def _tail(self) -> dict[str, int]:
        """Begin what is new, and have what has expired told; returns shards whose newest change was not read here."""
        for shard in self._turns.keys() - self._waiting.keys():
            del self._turns[shard]
            self._turns_followed.pop(shard, None)
        now = asyncio.get_running_loop().time()
        shards = sorted({*self._logs, *self._waiting})
        if not shards or (now < self._tail_at and not self._new()):
            return {}
        tails = dict(zip(shards, await self._broker.fact_tail(shards), strict=True))
        behind: dict[str, int] = {}
        for shard, tail in tails.items():
            one = self._logs.get(shard)
            if one is not None and not one.followed.is_set():
                one.begin(tail.changed)
            elif one is not None and one.end != tail.changed:
                behind[shard] = tail.changed
            if shard in self._waiting:
                # Lower than what we know: the server was rewound.
                self._turns[shard] = min(self._turns.get(shard, tail.version), tail.version)
                self._turns_followed.setdefault(shard, asyncio.Event()).set()
        due_ms = min((tail.due_ms for tail in tails.values() if tail.due_ms >= 0), default=BLOCK_MS)
        self._tail_at = now + min(due_ms, BLOCK_MS) / 1000
        return behind

    def _take(self, changes: list[FactChange]) -> None:
        now = asyncio.get_running_loop().time()
        for change in changes:
            if change.ttl_ms:
                self._tail_at = min(self._tail_at, now + change.ttl_ms / 1000)
            one = self._logs.get(change.shard)
            if one is not None and change.before < 0:
                one.skip(change.version)  # A stranger wrote it.
            elif one is not None:
                one.add(change)

    def _give(self, turns: list[Turn]) -> None:
        for turn in turns:
            if turn.shard in self._turns:
                self._turns[turn.shard] = turn.version
            for event in self._waiting.get(turn.shard, {}).get(turn.owner or turn.name, ()):
                event.set()

    def _wake_all(self) -> None:
        for of_shard in self._waiting.values():
            for events in of_shard.values():
                for event in events:
                    event.set()
