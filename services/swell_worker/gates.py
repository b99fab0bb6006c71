"""What stands between an agent and its turn: a hold, a drain, or its type's limits. Most agents have nothing there.

    woken --admit?--> turn --passes?--> a message --passes?--> ... --> rested
         |no
         +--> its mailbox is parked: a hold keeps nothing in memory, a line at a limit a few messages for each agent

Whether there is one is looked at when an agent is woken, between series, and when its turn ends: never for a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from swell.bus.entry import Entry
from swell.wire import SPAWN, AgentState
from swell_worker.mailbox import Mailbox

if TYPE_CHECKING:
    from swell_worker.cell import Cell


_ENDED = ("stopped", "failed")


class Gate(Protocol):
    """Decides for an agent whether it may begin something."""

    #: What an agent behind it is said to be; None: as it is.
    state: ClassVar[AgentState | None]
    #: Whether nothing at all may be begun.
    closed: ClassVar[bool]

    def admit(self, cell: Cell) -> bool:
        """Whether an agent that was woken may have its turn now; if not, it is woken again when it may."""
        ...

    def lets(self, cell: Cell, box: Mailbox) -> bool:
        """Whether the next message of a mailbox is one that may be begun, if there is room for any."""
        ...

    def passes(self, cell: Cell, box: Mailbox) -> bool:
        """Whether it may begin the first message of a mailbox's line, one alone, in its turn; if so, it does."""
        ...

    def opens(self, cell: Cell, box: Mailbox) -> bool:
        """Whether it may have a mailbox's parked messages fetched, in its turn."""
        ...


class Closed:
    """Nothing may be begun but a birth and an end that nothing waits before."""

    closed: ClassVar[bool] = True

    def admit(self, cell: Cell) -> bool:
        """See `Gate.admit`."""
        if is_free(cell, cell.mailbox):
            return True
        park(cell, 0)
        return False

    def lets(self, cell: Cell, box: Mailbox) -> bool:
        """See `Gate.lets`."""
        return is_free(cell, box)

    def passes(self, cell: Cell, box: Mailbox) -> bool:
        """See `Gate.passes`."""
        return is_free(cell, box)

    def opens(self, cell: Cell, box: Mailbox) -> bool:
        """See `Gate.opens`."""
        return cell.record.state in _ENDED


class Paused(Closed):
    """Of an agent or a type that is paused."""

    state: ClassVar[AgentState | None] = "paused"


class Quarantined(Closed):
    """Of an agent that was set apart."""

    state: ClassVar[AgentState | None] = "quarantined"


PAUSED = Paused()
QUARANTINED = Quarantined()


def is_free(cell: Cell, box: Mailbox) -> bool:
    """Whether the next of a mailbox is no handler's: a birth, an end behind nothing else, or for one that has ended.

    A new agent's birth is free whatever else waits for it, since that can only come behind it.
    """
    if cell.record.state in _ENDED:
        return True
    if not box.line or not box.line[0].series.name.startswith("$"):
        return False
    if cell.record.state == "spawning" and box.line[0].series.name == SPAWN:
        return True
    return all(other.empty for other in cell.all_boxes if other is not box)


def place(entry: Entry, index: int) -> tuple[int, int, int]:
    """Where a message stands in its shard's stream, for comparing."""
    milliseconds, _, number = entry.id.partition("-")
    return int(milliseconds), int(number or 0), index


def first(box: Mailbox) -> tuple[int, int, int] | None:
    """The place of the message that would be begun next of a mailbox; None if nothing waits."""
    for one in box.line:
        if one.begun < one.series.count:
            return place(one.entry, one.index + one.begun)
    return place(*box.parked[0]) if box.parked else None


def park(cell: Cell, keep: int) -> None:
    """Keep the first series of a resting agent, the most urgent, as far as they begin within `keep` messages.

    The rest is parked: it costs its place alone, so what waits for long neither fills the memory nor holds up others'
    reading.
    """
    kept = 0
    for box in cell.all_boxes:
        at = 0
        while at < len(box.line) and kept < keep:
            kept += box.line[at].series.count - box.line[at].begun
            at += 1
        over, box.line[at:] = box.line[at:], []
        places: list[tuple[Entry, int]] = []
        for one in over:
            box.waiting -= one.series.count
            left = range(one.index + one.begun, one.index + one.series.count)
            places += [(one.entry, index) for index in left]
            one.entry.parked += len(left)
            if left and one.entry.left <= one.entry.parked:
                one.entry.inbox.quiet(one.entry)
        box.parked[:0] = places
