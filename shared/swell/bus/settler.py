"""Settling without timers: what ends while one settle is in flight goes with the next, for all shards in one call."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from swell.backoff import RECONNECT
from swell.bus.broker import Broker, Outcome, Settlement
from swell.bus.entry import Entry, Mark
from swell.bus.replies import Replies
from swell.bus.shard import Inbox, OwnedShard
from swell.errors import BrokerError
from swell.instruments import Recorder

log = logging.getLogger(__name__)

#: An entry that is ended only in part is recorded so once it is this old, seconds.
PARTIAL_AFTER_S = 0.1
#: Entries of one shard in one call: a bound on how long the server is busy with us alone.
CALL_ENTRIES = 512

_EVER_NS = 1 << 63
_Marks = list[Mark]


class Settler:
    """Writes outcomes, records and replies of all shards that one process owns.

    Args:
        broker: where to.
        owned: the process's shards, shared with its consumer.
        recorder: counts stale settles and replies nobody waited for.
        stale: called with a shard whose epoch turned out to be no longer ours.

    Attributes:
        replies: what is to be answered; goes behind what is to be settled now.
        problem: why nothing can be settled now; empty if the last settle was answered.
    """

    def __init__(
        self,
        broker: Broker,
        owned: Mapping[str, OwnedShard],
        recorder: Recorder,
        stale: Callable[[OwnedShard], None],
    ) -> None:
        self._broker = broker
        self._owned = owned
        self._recorder = recorder
        self._stale = stale
        self._wanted: list[tuple[Entry, asyncio.Future[None]]] = []
        self._flushes: list[asyncio.Future[None]] = []
        # Looking for half-ended entries goes through all that are open: not in every cycle.
        self._look_again_ns = 0
        self.dirty = asyncio.Event()
        self.replies = Replies(self.dirty)
        self.problem = ""

    async def flush(self) -> None:
        """Return when all that ended until now is written, or found to be no longer ours to write."""
        flush: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append(flush)
        self.dirty.set()
        await flush

    async def record(self, entry: Entry) -> None:
        """Return when what ended of an entry is written, however young it is, or is no longer ours to write."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted.append((entry, written))
        self.dirty.set()
        await written

    async def run(self) -> None:
        """Settle until cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(PARTIAL_AFTER_S):
                        await self.dirty.wait()
                except TimeoutError:
                    pass
                self.dirty.clear()
                await self._cycle()
        finally:
            self.replies.end()

    async def _cycle(self) -> None:
        flushes, self._flushes = self._flushes, []
        wanted, self._wanted = self._wanted, []
        now_ns = time.monotonic_ns()
        look = now_ns >= self._look_again_ns
        if look:
            self._look_again_ns = now_ns + int(PARTIAL_AFTER_S * 1e9)
        # At a flush all that is half ended counts, however young, of the shards that are being handed over.
        taken, settled, marks = self._gather(
            now_ns - int(PARTIAL_AFTER_S * 1e9) if look else 0, bool(flushes), [entry for entry, _ in wanted]
        )
        self.replies.take()
        replies = self.replies.next_call()
        if taken or replies:
            valid, gone = await self._settle(taken, replies)
            now_us = time.time_ns() // 1000
            for ok, (shard, settlement), entries, shard_marks in zip(valid, taken, settled, marks, strict=True):
                if not ok:
                    self._recorder.count("stale_settles")
                    self._stale(shard)
                    continue
                for entry in entries:
                    entry.inbox.open.pop(entry.id, None)
                for histogram, sent_us, messages in shard_marks:
                    histogram.record(now_us - sent_us, messages)
                if settlement.timed and shard.on_timed is not None:
                    shard.on_timed(min((one.due_ms for one in settlement.timed.values() if one), default=1 << 62))
            self.replies.written()
            while replies := self.replies.next_call():
                _, again = await self._settle([], replies)
                self.replies.written()
                gone += again
            if gone:
                self._recorder.count("replies_dropped", by=gone)
        for flush in (*flushes, *(written for _, written in wanted)):
            if not flush.done():
                flush.set_result(None)

    def _gather(
        self, old_ns: int, flush: bool, wanted: list[Entry]
    ) -> tuple[list[tuple[OwnedShard, Settlement]], list[list[Entry]], list[_Marks]]:
        """What is to be written now: settlements, and for each the entries it ends and what they tell of latency."""
        taken: list[tuple[OwnedShard, Settlement]] = []
        settled: list[list[Entry]] = []
        marks: list[_Marks] = []
        for shard in self._owned.values():
            whole, shard.whole = shard.whole, False
            for inbox in shard.inboxes:
                with_records = inbox is shard and bool(shard.records or shard.timed)
                if not (inbox.open or inbox.done or with_records):
                    continue
                most = len(inbox.done) if whole else CALL_ENTRIES
                done = inbox.done[:most]
                del inbox.done[:most]
                if inbox.done:
                    self.dirty.set()
                if whole:
                    halves = [entry for entry in inbox.open.values() if entry.half_settled]
                else:
                    halves = self._halves(inbox, _EVER_NS if flush and not shard.reading else old_ns)
                halves += [one for one in wanted if one.inbox is inbox and one.half_settled and one not in halves]
                if not (done or halves or with_records):
                    continue
                outcomes: list[Outcome] = []
                shard_marks: _Marks = []
                for entry in (*done, *halves):
                    outcomes.append(entry.outcome())
                    shard_marks += entry.take_marks()
                shard.settlements += 1
                settlement = Settlement(shard.lease, outcomes, seq=shard.settlements, inbox=inbox.name)
                if with_records:
                    settlement.records, shard.records = shard.records, {}
                    settlement.timed, shard.timed = shard.timed, {}
                taken.append((shard, settlement))
                settled.append(done)
                marks.append(shard_marks)
        return taken, settled, marks

    @staticmethod
    def _halves(inbox: Inbox, old_ns: int) -> list[Entry]:
        """Entries that ended in part and were read before `old_ns`: they have waited long enough for the rest."""
        halves: list[Entry] = []
        for entry in inbox.open.values():
            if entry.read_ns > old_ns or len(halves) == CALL_ENTRIES:
                break
            if entry.half_settled:
                halves.append(entry)
        return halves

    async def _settle(
        self, taken: list[tuple[OwnedShard, Settlement]], replies: dict[str, bytes]
    ) -> tuple[list[bool], int]:
        """Write; repeat the same call until the server has answered it (it writes nothing twice)."""
        failures = 0
        settlements = [settlement for _, settlement in taken]
        while True:
            try:
                answer = await self._broker.settle(settlements, replies)
            except BrokerError as error:
                failures += 1
                self.problem = f"settling waits: {error}"
                if failures & (failures - 1) == 0:  # The first time, then ever more rarely.
                    log.warning("settle waits: %s", error, extra={"failures": failures})
                await asyncio.sleep(RECONNECT.wait_s(failures))
            else:
                self.problem = ""
                return answer
