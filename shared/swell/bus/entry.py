"""One entry in its owner's hands: which of its messages are ended, and how.

read --> [1 0 1 1]  some ended --> after 100 ms recorded in part --> all ended --> settled: acked and deleted
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from swell.bus.broker import Outcome, Partial
from swell.wire import Batch

if TYPE_CHECKING:
    from swell.bus.shard import Inbox
    from swell.histogram import Histogram


#: A histogram of send-to-settled times, when messages were sent, and how many of them there are.
Mark = tuple["Histogram", int, int]


class Entry:
    """The state of one delivered entry: 1..256 messages.

    Attributes:
        inbox: where it lies.
        shard: whose that is.
        id: its stream id.
        count: its messages.
        left: messages not ended yet; those of a series that is being handled are counted here a little late.
        flags: one byte a message, 1 once it is ended.
        read_ns: when it was read, monotonic nanoseconds.
        parked: messages not ended whose bodies were dropped from memory; they are fetched again later.
        size: bytes of its payload, while any of it is held in memory.
    """

    __slots__ = (
        "_dead",
        "_expired",
        "_letters",
        "_marks",
        "_recorded",
        "count",
        "flags",
        "id",
        "inbox",
        "left",
        "parked",
        "read_ns",
        "shard",
        "size",
    )

    def __init__(self, inbox: Inbox, id: str, count: int, read_ns: int, before: Partial | None = None) -> None:
        self.inbox = inbox
        self.shard = inbox.shard
        self.id = id
        self.count = count
        self.read_ns = read_ns
        self.size = 0
        self.parked = 0
        self._letters: list[bytes] | None = None
        self._marks: list[Mark] = []
        if before is None:
            self.flags = bytearray(count)
            self.left = count
            self._dead = self._expired = self._recorded = 0
        else:
            self.flags = bytearray(before.bitmap)
            self._dead, self._expired = before.dead, before.expired
            self._recorded = before.acked + before.dead + before.expired
            self.left = count - self._recorded

    def mark(self, settled: Histogram, sent_us: int, count: int) -> None:
        """So many messages' time from `sent_us` (microseconds since 1970) to their settlement counts.

        It is told when the whole entry is settled, so a message that ended before its neighbours counts as long as
        they took.
        """
        self._marks.append((settled, sent_us, count))

    def ack(self, index: int) -> None:
        """Message `index` was handled; each message is ended once, by this, by `kill` or by `expire`."""
        self.flags[index] = 1
        self.ended(1)

    def kill(self, index: int, letter: bytes) -> None:
        """Message `index` is given up; `letter` is the encoded `wire.DeadLetter`."""
        self.flags[index] = 1
        self._dead += 1
        if self._letters is None:
            self._letters = []
        self._letters.append(letter)
        self.ended(1)

    def expire(self, index: int) -> None:
        """Message `index` ends without having been handled: nobody wants it any more."""
        self.flags[index] = 1
        self._expired += 1
        self.ended(1)

    def ended(self, count: int) -> None:
        """So many messages have ended, and their flags are set."""
        left = self.left = self.left - count
        if left <= self.parked:
            self.inbox.quiet(self)

    def kill_all(self, letter: bytes) -> None:
        """The whole entry is given up, with one letter: its bytes are no batch."""
        self.flags = bytearray(b"\x01" * self.count)
        self._dead += self.left
        self.left = 0
        self._letters = [letter]
        self.inbox.quiet(self)

    def deliver_alone(self, index: int, batch: Batch, deliver: Callable[[Entry, Batch], None]) -> None:
        """Deliver message `index` and none of the others: to `deliver`, they look ended."""
        flags = self.flags
        self.flags = bytearray(b"\x01" * self.count)
        self.flags[index] = 0
        try:
            deliver(self, batch)
        finally:
            flags[index] = self.flags[index]
            self.flags = flags

    @property
    def half_settled(self) -> bool:
        """Whether messages ended that the server does not know of yet, while others have not."""
        return self.left > 0 and self.flags.count(1) > self._recorded

    def outcome(self) -> Outcome:
        """What to record now. Call `recorded` when it is."""
        letters, self._letters = self._letters or [], None
        return Outcome(
            id=self.id,
            acked=self.flags.count(1) - self._dead - self._expired,
            dead=self._dead,
            expired=self._expired,
            done=not self.left,
            letters=letters,
            bitmap=bytes(self.flags) if self.left else b"",
        )

    def take_marks(self) -> list[Mark]:
        """What the outcome just made tells of latency, to be counted when the server has recorded it."""
        self._recorded = self.flags.count(1)
        if self.left:
            return []
        marks, self._marks = self._marks, []
        return marks
