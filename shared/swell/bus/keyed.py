"""Messages that are appended once, however often and by whomever they are sent: the sender's key names each batch.

    messages --by shard--> batches 1, 2, ... of the producer `key:KEY` --append--> ok, or a duplicate: there already

The server remembers a producer's last batch for a day. So whoever repeats the call, after a lost answer or in another
process, appends what is still missing and nothing twice, also if the first call was cut half-way through its shards.
This holds as long as the same messages make the same batches: the same key must be given the same messages, in order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from swell.backoff import BUSY, RECONNECT
from swell.bus.broker import Append, Appended, Broker
from swell.bus.lane import LEAST_ADVICE_S, MOST_ADVICE_S
from swell.codec import MAX_BATCH_BYTES, MessageBuffer
from swell.errors import BrokerFull, BrokerUnavailable, Busy, WrongBody
from swell.keys import SEGMENT
from swell.priority import room

log = logging.getLogger(__name__)

#: Bytes of one call, about: a bound on how long the server is busy with us alone.
CALL_BYTES = 4 * MAX_BATCH_BYTES


class SentOnce(NamedTuple):
    """What came of messages with a key: how many there are, and whether all of them had been appended before."""

    sent: int
    repeated: bool


def check_key(key: str) -> str:
    """Return `key` if it may be one.

    Raises:
        WrongBody: it is not 1 to 128 letters, digits, `.`, `_` or `-`, beginning with a letter or digit.
    """
    if not SEGMENT.match(key):
        problem = "must be 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        raise WrongBody("", f"key: {key!r} {problem}", field="key")
    return key


class _Shard:
    """One shard's batches, of which `done` are appended, each with the numbers of its messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.batches: list[tuple[MessageBuffer, list[int]]] = []
        self.done = 0

    def add(self, number: int, message: tuple[Any, ...]) -> None:
        if not (self.batches and self.batches[-1][0].add(message)):
            buffer = MessageBuffer()
            buffer.add(message)
            self.batches.append((buffer, []))
        self.batches[-1][1].append(number)

    @property
    def unsent(self) -> list[int]:
        return [number for _, numbers in self.batches[self.done :] for number in numbers]


class KeyedSend:
    """One call with a key.

    Args:
        broker: where to.
        key: names the messages within the namespace.
        max_depth: unsettled messages a shard may hold.
        wait_s: the most to wait for room or for the server, seconds; None for as long as it takes.
    """

    def __init__(self, broker: Broker, key: str, max_depth: int, wait_s: float | None) -> None:
        self._broker = broker
        self._producer = f"key:{check_key(key)}"
        self._max_depth = max_depth
        self._deadline = None if wait_s is None else time.monotonic() + wait_s
        self._shards: dict[str, _Shard] = {}
        self._count = 0
        self._lost = False
        self._all_there = True
        self._failures = 0
        self._full_since = 0.0

    async def send(self, messages: Iterable[tuple[str, tuple[Any, ...]]]) -> SentOnce:
        """Append (shard, message) pairs, all of them held in memory until then; returns when all are durable.

        Cancelled, it leaves what is appended; the same call again appends the rest.

        Raises:
            WireError: a message cannot be encoded or is too large; nothing is sent.
            Busy: there was no room for some within the wait; see `Busy.unsent`.
            BrokerUnavailable: the server did not answer within the wait. Repeating the call with the key is safe.
            BrokerRefused: the server refuses an append for good.
        """
        for shard, message in messages:
            (self._shards.get(shard) or self._shards.setdefault(shard, _Shard(shard))).add(self._count, message)
            self._count += 1
        while left := [shard for shard in self._shards.values() if shard.done < len(shard.batches)]:
            await self._append_next(left)
        return SentOnce(self._count, self._all_there and self._count > 0)

    async def _append_next(self, left: list[_Shard]) -> None:
        """One call: the next batch of each shard, or of as many as fit."""
        appends: list[Append] = []
        size = 0
        for shard in left:
            buffer, _ = shard.batches[shard.done]
            payload = buffer.batch(self._producer, shard.done + 1)
            most = room(shard.name, self._max_depth)
            if appends and (size + len(payload) > CALL_BYTES or most != room(appends[0].shard, self._max_depth)):
                break
            size += len(payload)
            appends.append(Append(shard.name, shard.done + 1, buffer.count, payload))
        try:
            most = room(appends[0].shard, self._max_depth)
            answers = await self._broker.append(self._producer, appends, most)
        except BrokerFull as error:
            await self._wait(self._busy(left[0], 0, str(error)), RECONNECT.wait_s(self._failures + 1))
        except BrokerUnavailable as error:
            self._lost = True
            await self._wait(error, RECONNECT.wait_s(self._failures + 1))
        else:
            full = [one for shard, answer in zip(left, answers, strict=False) if (one := self._answered(shard, answer))]
            if full:
                await self._wait(full[0], BUSY.wait_s(self._failures + 1))
            else:
                self._failures = 0
                self._full_since = 0.0

    def _answered(self, shard: _Shard, answer: Appended) -> Busy | None:
        status, detail = answer
        if status == "busy":
            return self._busy(shard, detail)
        if status == "gap":
            log.error("shard %s knows the batches of %s up to %d: it lost data", shard.name, self._producer, detail)
            shard.done = detail
            self._all_there = False
            return None
        shard.done += 1
        # A duplicate after a lost answer may well be our own.
        self._all_there &= status == "duplicate" and not self._lost
        return None

    def _busy(self, shard: _Shard, depth: int, reason: str = "") -> Busy:
        """The error, which advises to wait for as long as there was no room up to now."""
        now = time.monotonic()
        self._full_since = self._full_since or now
        return Busy(shard.name, depth, min(max(now - self._full_since, LEAST_ADVICE_S), MOST_ADVICE_S), reason)

    async def _wait(self, error: Busy | BrokerUnavailable, wait_s: float) -> None:
        """Wait before the next try, or raise what the sender is told if it waits no longer."""
        self._failures += 1
        if self._deadline is None or time.monotonic() + wait_s < self._deadline:
            await asyncio.sleep(wait_s)
            return
        unsent = sorted(number for shard in self._shards.values() for number in shard.unsent)
        sent = self._count - len(unsent)
        if isinstance(error, Busy) and not self._lost:
            raise error.of_many(sent, unsent)
        text = f"{error}: {sent} of {self._count} are appended, the others may be; repeat it with the same key"
        raise BrokerUnavailable(text) from error
