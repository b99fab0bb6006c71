"""Requests that end later: a pause when the handlers that ran have returned, a drain when all before it is handled.

    drain read at place P --> each of its agents handles what lies before P --none left--> paused, recorded, answered
    pause read ---recorded--> each of its agents that runs goes on with its message --none left--> answered

The request is settled only then: a worker that dies before leaves it to the next owner, who reads it again, at P.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from swell.bus.entry import Entry
from swell.holds import HoldRequest
from swell.wire import AgentState, Message
from swell_worker.gates import first, is_free, park, place
from swell_worker.limits import TypeLimits
from swell_worker.mailbox import Mailbox

if TYPE_CHECKING:
    from swell_worker.cell import Cell


#: Finds the limits of a type.
FindLimits = Callable[[str], TypeLimits | None]


class Asked(NamedTuple):
    """A request for a hold, at a place of an entry."""

    entry: Entry
    at: int
    message: Message
    wanted: HoldRequest

    @property
    def scope(self) -> str:
        """What it is about: an agent's id, or a type; no id is a type."""
        return self.wanted.agent or self.wanted.type


class Pending:
    """Requests about one agent or type that end when none of its agents is `left`.

    Args:
        asked: the first of them.
        limits: finds the limits that a drain goes by.
        idle: told of an agent for which nothing is left to drain.
        drains: see below.

    Attributes:
        asked: the requests; they end together.
        left: agents that still do something.
        drains: whether agents go on with what waited before; else only with what they have begun.
    """

    def __init__(self, asked: Asked, limits: FindLimits, idle: Callable[[Cell], None], *, drains: bool) -> None:
        self.asked = [asked]
        self.left: set[Cell] = set()
        self.drains = drains
        self.gate = Draining(place(asked.entry, asked.at), limits, idle)

    def join(self, asked: Asked) -> None:
        """Another request for the same: all before it is handled, too."""
        self.asked.append(asked)
        self.gate.mark = place(asked.entry, asked.at)

    def watch(self, cells: Iterable[Cell]) -> None:
        """Take those of the agents in that still have something to do."""
        self.left.update(cell for cell in cells if not cell.resting or (self.drains and self.gate.concerns(cell)))


class Draining:
    """The gate of an agent that handles what was sent before a place in the stream, and then nothing more."""

    state: ClassVar[AgentState | None] = "draining"
    closed: ClassVar[bool] = False

    def __init__(self, mark: tuple[int, int, int], limits: FindLimits, idle: Callable[[Cell], None]) -> None:
        self.mark = mark
        self._limits = limits
        self._idle = idle

    def concerns(self, cell: Cell) -> bool:
        """Whether something waits for an agent that was sent before."""
        return any(self._before(box) for box in cell.all_boxes)

    def _before(self, box: Mailbox) -> bool:
        at = first(box)
        return at is not None and at < self.mark

    def admit(self, cell: Cell) -> bool:
        """See `Gate.admit`."""
        if self.concerns(cell):
            limits = self._limits(cell.type.name)
            return limits is None or limits.admit(cell)
        if is_free(cell, cell.mailbox):
            return True
        park(cell, 0)
        self._idle(cell)
        return False

    def lets(self, cell: Cell, box: Mailbox) -> bool:
        """See `Gate.lets`: of each priority what was sent before."""
        return is_free(cell, box) or self._before(box)

    def passes(self, cell: Cell, box: Mailbox) -> bool:
        """See `Gate.passes`."""
        if is_free(cell, box):
            return True
        limits = self._limits(cell.type.name)
        return self._before(box) and (limits is None or limits.passes(cell, box))

    def opens(self, cell: Cell, box: Mailbox) -> bool:
        """See `Gate.opens`."""
        limits = self._limits(cell.type.name)
        return self._before(box) and (limits is None or limits.opens(cell, box))
