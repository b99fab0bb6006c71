"""The host of the shard `metrics`: each report is added, and the totals are saved in the call that settles it.

So a report counts exactly once: either it is unsettled and not in the totals saved, or settled and in them.
"""

from __future__ import annotations

import logging
import time

from swell.bus.broker import Inheritance
from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.clock import now_ms
from swell.codec import decode, encode
from swell.errors import WireError
from swell.instruments import Recorder
from swell.wire import MEASURE, Batch, DeadLetter, Measurements, Message
from swell_metrics.collector import Collector, Totals

log = logging.getLogger(__name__)

#: The record of the shard that holds the totals.
TOTALS = "totals"


class MetricsHost:
    """Takes the messages of the shard `metrics`.

    Args:
        recorder: counts reports that cannot be read.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.collector = Collector()
        self._recorder = recorder

    async def opened(self, shard: OwnedShard, inherited: Inheritance) -> None:
        """Begin where the former owner ended."""
        saved = inherited.records.get(TOTALS)
        self.collector = Collector(decode(saved, Totals) if saved is not None else None)

    def deliver(self, entry: Entry, batch: Batch) -> None:
        """Add every report of an entry, and save the totals with its settlement."""
        now_s = time.monotonic()
        for index, message in enumerate(batch.messages):
            if entry.flags[index]:
                continue
            try:
                if message.name != MEASURE:
                    raise WireError(f"the metrics service takes {MEASURE!r}, not {message.name!r}")
                measured = decode(message.body, Measurements)
            except WireError as error:
                log.error("report refused: %s", error, extra={"entry": entry.id})
                self._recorder.count("dead")
                entry.kill(index, _letter(entry, index, message, error))
            else:
                self.collector.add(measured, now_s)
                entry.ack(index)
        entry.shard.record(TOTALS, encode(self.collector.totals))

    async def closing(self, shard: OwnedShard) -> None:
        """Nothing runs beyond `deliver`."""

    def lost(self, shard: OwnedShard) -> None:
        """Forget; what we added and could not save, the next owner adds from the stream."""
        self.collector = Collector()

    def room(self) -> bool:
        """Reports are added at once."""
        return True


def _letter(entry: Entry, index: int, message: Message, error: WireError) -> bytes:
    return encode(
        DeadLetter(
            id=f"{entry.shard.name}:{entry.id}:{index}",
            to=message.to,
            name=message.name,
            body=message.body,
            kind="wrong_body",
            reason=str(error),
            sender=message.sender,
            sent_us=message.sent_us,
            at_ms=now_ms(),
        )
    )
