"""An event becomes a message for each of its subscribers: what the owner of a shard writes for that.

    $event in the inbox --matched--> fan_out: the subscribers' batches are appended and the mark moves on, at once
                                        |
                                        +--> the event is acked, with whatever ends then

The mark says how far the shard's events are fanned out: an owner that dies between the two leaves it to the next, which
finds the event in the inbox, sees by the mark that it is done, and acks it. So nobody is given an event twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from swell.priority import split

if TYPE_CHECKING:
    from swell.bus.broker import Lease

#: The record of a shard that holds the mark of its normal events; those of other priorities have one of their own.
MARK = "$events"


def mark_of(inbox: str) -> str:
    """The record that holds the mark of an inbox's events."""
    _, priority = split(inbox)
    return f"{MARK}.{priority}" if priority else MARK


FanOutStatus = Literal["ok", "busy", "lost"]


class FanOut(NamedTuple):
    """One step: if the mark is (still) `before`, append batches and make it `after`.

    Attributes:
        before: the mark as the owner knows it, empty if there is none.
        after: what it becomes.
        batches: the number of messages of each, and itself.
    """

    before: bytes
    after: bytes
    batches: Sequence[tuple[int, bytes]]


class EventBroker(Protocol):
    """The part of `swell.bus.broker.Broker` that is about events."""

    async def fan_out(self, lease: Lease, step: FanOut, most_depth: int) -> FanOutStatus:
        """Append what an event becomes, all of it or nothing; repeating a call appends nothing twice.

        `lease.shard` names the inbox: that of the events' priority.

        Returns:
            `busy` if the shard's depth would pass `most_depth` (nothing was written), `lost` if the lease is no longer
            ours, or another owner has moved the mark.
        """
        ...
