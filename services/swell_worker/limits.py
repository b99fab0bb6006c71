"""Limits of a type: how many of its agents may be in a handler at one moment, and how many messages begin in a second.

    woken --> line: [agent] [agent] ... --room, and a token--> turn: one message --> others wait? --> behind them
                                                                       |  nobody waits, and a token
                                                                       +--> the next message

The limits are the fleet's; each worker holds to its share, so nothing is asked of anybody for a message. An agent in
line has no task, and a few messages in memory; the rest of what waits for it stays in the stream.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from swell.wire import AgentState
from swell_worker.gates import is_free, park
from swell_worker.mailbox import Mailbox

if TYPE_CHECKING:
    from swell_worker.cell import Cell

#: Messages of an agent in line that are kept in memory.
KEEP = 16
#: A worker may be behind its rate by so much and catch up at once, seconds; by one message in any case.
BURST_S = 0.1


def share_of(total: int, members: Sequence[str], me: str) -> int:
    """How many of `total` are mine: equal shares, the rest to the first by name, and one in any case.

    A worker without any would leave its agents waiting for ever; so a fleet cannot hold to less than one each.
    """
    names = sorted({*members, me})
    base, rest = divmod(total, len(names))
    return max(1, base + (names.index(me) < rest))


class TypeLimits:
    """The gate of a type that has limits, in one worker.

    Args:
        me: the worker's name.
        members: who shares the limits.
        wake: gives an agent its turn.
    """

    state: ClassVar[AgentState | None] = None
    closed: ClassVar[bool] = False

    def __init__(self, me: str, members: Callable[[], Sequence[str]], wake: Callable[[Cell], None]) -> None:
        self._me = me
        self._members = members
        self._wake = wake
        self._known: Sequence[str] = ()
        self._line: OrderedDict[Cell, None] = OrderedDict()
        #: Agents that have a place, and those of them that did not begin a message in it yet.
        self._placed: set[Cell] = set()
        self._fresh: set[Cell] = set()
        self._concurrency = 0
        self._rate = 0.0
        self._places = 0
        self._pace = 0.0
        self._tokens = 0.0
        self._filled = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_line(self) -> int:
        """Agents that wait."""
        return len(self._line)

    def limit(self, concurrency: int, rate: float) -> None:
        """Hold to these from now on, of the whole fleet; 0: no limit."""
        if (concurrency, rate) == (self._concurrency, self._rate):
            return
        self._concurrency, self._rate = concurrency, rate
        self._share(self._members())
        self._tokens = self._burst
        self._grant()

    def look(self) -> None:
        """Others may have come or gone."""
        members = self._members()
        if members is not self._known:
            self._share(members)
            self._grant()

    def forget(self, cell: Cell) -> None:
        """An agent is held, or no longer ours: it waits no more."""
        self._line.pop(cell, None)

    def end(self) -> None:
        """Let nobody in any more: there are no limits, so whoever waits has another gate, or the worker stops."""
        self._line.clear()
        if self._timer is not None:
            self._timer.cancel()

    # Gate.

    def admit(self, cell: Cell) -> bool:
        """See `Gate.admit`: in line, unless there is room and nobody waits."""
        if cell.idle or cell in self._fresh or is_free(cell, cell.mailbox):
            self._line.pop(cell, None)
            return True
        if not self._line and self._take(cell):
            return True
        self._line.setdefault(cell)
        park(cell, KEEP)
        self._wait()
        return False

    def lets(self, cell: Cell, box: Mailbox) -> bool:
        """See `Gate.lets`: limits make no difference between messages."""
        return True

    def passes(self, cell: Cell, box: Mailbox) -> bool:
        """See `Gate.passes`: what it was let in for; more only if nobody waits."""
        if is_free(cell, box):
            return True
        if cell not in self._fresh and (self._line or not self._take(cell)):
            return False
        self._fresh.discard(cell)
        return True

    def opens(self, cell: Cell, box: Mailbox) -> bool:
        """See `Gate.opens`."""
        return cell in self._fresh

    def left(self, cell: Cell) -> None:
        """An agent's turn has ended; its place is free."""
        if cell in self._placed:
            self._give_back(cell)
            self._grant()

    # Places and tokens.

    def _share(self, members: Sequence[str]) -> None:
        self._known = members
        self._places = share_of(self._concurrency, members, self._me) if self._concurrency else 0
        self._fill()
        self._pace = self._rate / len({*members, self._me})
        if self._timer is not None:  # It was set by the pace before.
            self._timer.cancel()
            self._timer = None

    @property
    def _burst(self) -> float:
        return max(1.0, self._pace * BURST_S)

    def _fill(self) -> None:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._pace)
        self._filled = now

    def _take(self, cell: Cell) -> bool:
        """Give an agent a place, if it has none, and a token for one message."""
        if self._places and cell not in self._placed and len(self._placed) >= self._places:
            return False
        if self._rate:
            self._fill()
            if self._tokens < 1:
                return False
            self._tokens -= 1
        self._placed.add(cell)
        self._fresh.add(cell)
        return True

    def _give_back(self, cell: Cell) -> None:
        """Take an agent's place, and its token if it did not use that."""
        self._placed.discard(cell)
        if cell in self._fresh:
            self._fresh.discard(cell)
            self._tokens += 1

    def _grant(self) -> None:
        """Let in whoever there is room for, in order."""
        while self._line:
            cell = next(iter(self._line))
            gate = cell.gate
            if not cell.resting or not cell.shard.reading or gate is None or gate.closed:
                del self._line[cell]
                continue
            if not self._take(cell):
                break
            del self._line[cell]
            self._wake(cell)
            if cell.resting:  # It is held back otherwise, or what it waited for was cancelled.
                self._give_back(cell)
        self._wait()

    def _wait(self) -> None:
        """Look again when the next token is there; for a place, whoever frees it looks."""
        if not self._line or not self._rate or self._timer is not None:
            return
        if self._places and len(self._placed) >= self._places:
            return
        self._fill()
        wait_s = max(0.0, 1 - self._tokens) / self._pace
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._grant()
