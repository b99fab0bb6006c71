"""What stands between an agent and its turn: a hold, a drain, or its type's limits. Most agents have nothing there.

    woken --admit?--> turn --passes?--> a message --passes?--> ... --> rested
         |no
         +--> its mailbox is parked: a hold keeps nothing in memory, a line at a limit a few messages for each agent

Whether there is one is looked at when an agent is woken, between series, and when its turn ends: never for a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from swell.bus.entry import Entry
from swell.wire import AgentState
from swell_worker.mailbox import Waiting

if TYPE_CHECKING:
    from swell_worker.cell import Cell


class Gate(Protocol):
    """Decides for an agent whether it may begin something."""

    #: What an agent behind it is said to be; None: as it is.
    state: ClassVar[AgentState | None]
    #: Whether nothing at all may be begun.
    closed: ClassVar[bool]

    def admit(self, cell: Cell) -> bool:
        """Whether an agent that was woken may have its turn now; if not, it is woken again when it may."""
        ...

    def passes(self, cell: Cell, one: Waiting) -> bool:
        """Whether it may begin the first message of its mailbox, one alone, in its turn."""
        ...

    def opens(self, cell: Cell) -> bool:
        """Whether it may have parked messages fetched, in its turn."""
        ...


class Closed:
    """Nothing may be begun but a birth and an end that nothing waits before."""

    closed: ClassVar[bool] = True

    def admit(self, cell: Cell) -> bool:
        """See `Gate.admit`."""
        if cell.mailbox and is_free(cell, cell.mailbox[0]):
            return True
        park(cell, 0)
        return False

    def passes(self, cell: Cell, one: Waiting) -> bool:
        """See `Gate.passes`."""
        return is_free(cell, one)

    def opens(self, cell: Cell) -> bool:
        """See `Gate.opens`."""
        return False


class Paused(Closed):
    """Of an agent or a type that is paused."""

    state: ClassVar[AgentState | None] = "paused"


class Quarantined(Closed):
    """Of an agent that was set apart."""

    state: ClassVar[AgentState | None] = "quarantined"


PAUSED = Paused()
QUARANTINED = Quarantined()


def is_free(cell: Cell, one: Waiting) -> bool:
    """Whether the first of a mailbox is no handler's: a birth, an end, or what comes to an agent that has ended."""
    return one.series.name.startswith("$") or cell.record.state in ("stopped", "failed")


def place(entry: Entry, index: int) -> tuple[int, int, int]:
    """Where a message stands in its shard's stream, for comparing."""
    milliseconds, _, number = entry.id.partition("-")
    return int(milliseconds), int(number or 0), index


def first(cell: Cell) -> tuple[int, int, int] | None:
    """The place of the message that an agent would begin next; None if nothing waits."""
    for one in cell.mailbox:
        if one.begun < one.series.count:
            return place(one.entry, one.index + one.begun)
    return place(*cell.parked[0]) if cell.parked else None


def park(cell: Cell, keep: int) -> None:
    """Keep the first series of a resting agent's mailbox, as far as they begin within `keep` messages; park the rest.

    What is parked costs its place alone, so what waits for long neither fills the memory nor holds up others' reading.
    """
    kept = at = 0
    while at < len(cell.mailbox) and kept < keep:
        kept += cell.mailbox[at].series.count - cell.mailbox[at].begun
        at += 1
    over, cell.mailbox[at:] = cell.mailbox[at:], []
    places: list[tuple[Entry, int]] = []
    for one in over:
        cell.waiting -= one.series.count
        left = range(one.index + one.begun, one.index + one.series.count)
        places += [(one.entry, index) for index in left]
        one.entry.parked += len(left)
        if left and one.entry.left <= one.entry.parked:
            one.entry.shard.quiet(one.entry)
    cell.parked[:0] = places
