"""Idle agents are let go: what they hold is freed, their record, their kept state and their mailbox stay.

    turn ends --> idle: [agent, since] [agent, since] ... --the oldest is due, and still idle--> passivated()
                                                                                                      |
    next message --> a new instance, or a warm one --> started() --> the message                   passive

Agents of a type that does so (`idle_after`) are also started only when there is something to do after a takeover: a
worker that takes over a hundred thousand of them starts none.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from swell.bus.shard import OwnedShard

if TYPE_CHECKING:
    from swell_worker.cell import Cell
    from swell_worker.host import Fleet

#: Agents that are let go at one moment.
MOST_LEAVING = 100


class Passivation:
    """Lets idle agents of one worker go.

    Args:
        fleet: whose.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        #: For each type that lets agents go, those at rest, and since when; the longest first.
        self._idle: dict[str, OrderedDict[Cell, float]] = {
            type.name: OrderedDict() for type in fleet.app.types.values() if type.idle_after is not None
        }
        self._leaving = 0
        self._news = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._task: asyncio.Task[None] | None = None

    def attach(self, group: asyncio.TaskGroup) -> None:
        """Give the group in which agents leave."""
        if self._idle:
            self._group = group
            self._task = group.create_task(self._run())

    def rested(self, cell: Cell) -> None:
        """The turn of an agent that may be let go has ended."""
        if not cell.running:
            return
        idle = self._idle[cell.type.name]
        idle[cell] = time.monotonic()
        idle.move_to_end(cell)
        if len(idle) == 1:
            self._news.set()

    def closed(self, shard: OwnedShard) -> None:
        """A shard is no longer ours."""
        for idle in self._idle.values():
            for cell in [cell for cell in idle if cell.shard is shard]:
                del idle[cell]

    def end(self) -> None:
        """The worker stops."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        """Let go who is due, until cancelled."""
        while True:
            self._news.clear()
            due = self._begin_due()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _begin_due(self) -> float | None:
        """Begin with those that are due; returns when the next is, None if that is not known."""
        now = time.monotonic()
        next_due: float | None = None
        for name, idle in self._idle.items():
            after = self._fleet.app.types[name].idle_after
            assert after is not None
            while idle and self._leaving < MOST_LEAVING:
                cell, since = next(iter(idle.items()))
                if since + after > now:
                    next_due = since + after if next_due is None else min(next_due, since + after)
                    break
                del idle[cell]
                if cell.resting and cell.running and cell.idle and cell.shard.reading:
                    self._begin(cell)
        return next_due

    def _begin(self, cell: Cell) -> None:
        """Let an agent go in a task of its own; what comes for it meanwhile waits in its mailbox."""
        assert self._group is not None
        self._leaving += 1
        cell.resting = False
        self._fleet.awake.add(cell)
        cell.task = self._group.create_task(self._let_go(cell))

    async def _let_go(self, cell: Cell) -> None:
        try:
            await cell.passivate()
        finally:
            cell.task = None
            self._leaving -= 1
            self._news.set()
            self._fleet.ended(cell)
