"""The host of the shard `metrics`: every report counts exactly once, whatever dies when.

    deliver, deliver, ... --the loop turns--> save: totals through entry i, and every entry up to i ended

Totals name the last entry that is in them, and ids only grow. So it does not matter how settle calls divide what ended
(one call carries a bounded number of entries): entries that the saved totals contain already are ended, not added, when
they are read again; those that they do not contain were not settled either, because totals go with the first call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from swell.bus.broker import Inheritance
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.codec import decode, encode
from swell.errors import WireError
from swell.instruments import Recorder
from swell.letters import letter
from swell.wire import Batch, Death
from swell_metrics.collector import Collector, Totals
from swell_metrics.reading import read_report

log = logging.getLogger(__name__)

#: The record of the shard that holds the totals.
TOTALS = "totals"


class MetricsHost:
    """Takes the messages of the shard `metrics`.

    Args:
        recorder: counts reports that cannot be read.
        opened: called with the records of the shard when it is ours.
        closed: called when it is not any more.

    Attributes:
        collector: what was added so far; empty while another process owns the shard.
        merged_s: when a report was added last, or the shard opened; monotonic seconds.
    """

    def __init__(
        self,
        recorder: Recorder,
        opened: Callable[[Mapping[str, bytes]], None] = lambda _: None,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._opened = opened
        self._closed = closed
        self.collector = Collector()
        self.merged_s = 0.0
        self._recorder = recorder
        self._through = (0, 0)
        self._ended: list[tuple[Entry, int, bytes | None]] = []
        self._saving: asyncio.Handle | None = None

    async def opened(self, shard: OwnedShard, inherited: Inheritance) -> None:
        """Begin where the former owner ended.

        Raises:
            WireError: the totals saved cannot be read; beginning at zero would lose them silently.
        """
        saved = inherited.records.get(TOTALS)
        totals = decode(saved, Totals) if saved is not None else Totals()
        self.collector = Collector(totals)
        self._through = _place(totals.through)
        self.merged_s = time.monotonic()
        self._opened(inherited.records)

    def deliver(self, entry: Entry, batch: Batch) -> None:
        """Add every report of an entry, unless the totals have it; end and save with those of the same turn."""
        now_s, now_us = time.monotonic(), time.time_ns() // 1000
        place = _place(entry.id)
        fresh = place > self._through
        for index, message in enumerate(batch.messages):
            if entry.flags[index]:
                continue
            try:
                measured = read_report(message)
            except WireError as error:
                log.error("report refused: %s", error, extra={"entry": entry.id})
                self._recorder.count("dead")
                self._ended.append((entry, index, letter(entry, index, message, Death("wrong_body", str(error)))))
                continue
            if fresh:
                self.collector.add(measured, now_s, age_s=(now_us - message.sent_us) / 1e6)
            self._ended.append((entry, index, None))
        if fresh:
            self._through = place
            self.collector.totals.through = entry.id
        self.merged_s = now_s
        # Totals are encoded once for all entries of a read, not once for each.
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_soon(self._save, entry.shard)

    def _save(self, shard: OwnedShard) -> None:
        """End what was delivered, and write the totals in the same settle call."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        ended, self._ended = self._ended, []
        if not ended:
            return
        shard.record(TOTALS, encode(self.collector.totals))
        for entry, index, given_up in ended:
            if given_up is None:
                entry.ack(index)
            else:
                entry.kill(index, given_up)

    async def closing(self, shard: OwnedShard) -> None:
        """Save what was delivered in this turn of the loop; nothing else runs."""
        self._save(shard)
        self._closed()

    def lost(self, shard: OwnedShard) -> None:
        """Forget; what we added and could not save, the next owner adds from the stream."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        self._ended = []
        self.collector = Collector()
        self._closed()

    def room(self, rank: int) -> bool:
        """Reports are added at once."""
        return True


def _place(id: str) -> tuple[int, int]:
    """What stream ids are compared by: milliseconds, then the number within them."""
    ms, _, number = id.partition("-")
    return int(ms), int(number or 0)
