"""Which agent runs: one task gives them turns, and one that waits for something keeps its task and is left to it.

    woken --> ready: [agent] [agent] ...  --> runner: turn, turn, turn ...  --> at rest
                                                 |
                                                 +-- a handler awaits: this task is the agent's until its turn ends,
                                                     and a new runner goes on with the others

So an agent whose handlers do not wait costs no task and no wake-up of its own; a thousand that wait have a thousand.
There is a line of agents for each priority, by the most urgent message that waits for each. The most urgent line is
next, but one that was passed over MOST_PASSED times has its turn. An agent that went to a more urgent line leaves a
place behind in its own, for to look for it there would take too long; such a place counts as no agent.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING

from swell.priority import NORMAL, PRIORITIES
from swell_worker.mailbox import MOST_PASSED

if TYPE_CHECKING:
    from swell_worker.cell import Cell

#: How long turns follow each other before everything else in the process has one, nanoseconds.
STEP_NS = 1_000_000


class Turns:
    """Gives turns to the agents of one worker, in the order in which they were woken."""

    def __init__(self) -> None:
        self._lines: list[deque[Cell]] = [deque() for _ in PRIORITIES]
        self._passed = [0] * len(PRIORITIES)
        # Places left behind in each line: how many each agent has there, always before its own; and all of them.
        self._left: list[dict[Cell, int]] = [{} for _ in PRIORITIES]
        self._empty = [0] * len(PRIORITIES)
        # Agents in line; and the places in all lines but that of normal messages, also those left behind.
        self._waiting = 0
        self._beside = 0
        self._group: asyncio.TaskGroup | None = None
        self._clean = Context()
        self._runner: asyncio.Task[None] | None = None
        # Whether the runner waits between two turns, and not in a handler.
        self._between = False

    def attach(self, group: asyncio.TaskGroup) -> None:
        """Give the group in which agents run."""
        self._group = group
        self._clean = copy_context()

    def add(self, cell: Cell, rank: int) -> None:
        """An agent has something to do, of this priority; it must not be in line already, nor have its turn."""
        cell.line = rank
        self._lines[rank].append(cell)
        self._waiting += 1
        self._beside += rank != NORMAL
        if self._runner is None:
            self._start()

    def hurry(self, cell: Cell, rank: int) -> None:
        """An agent got something of this priority: if it is in a less urgent line, it goes to this one."""
        before = cell.line
        if before > rank:
            cell.line = rank
            self._lines[rank].append(cell)
            self._beside += rank != NORMAL
            self._left[before][cell] = self._left[before].get(cell, 0) + 1
            self._empty[before] += 1
            if self._empty[before] * 2 > len(self._lines[before]):
                self._close_up(before)

    def _next(self) -> Cell:
        """The agent whose turn it is."""
        while True:
            rank = self._chosen() if self._beside else NORMAL
            cell = self._lines[rank].popleft()
            self._beside -= rank != NORMAL
            if not (self._left[rank] and self._passes(rank, cell)):
                cell.line = -1
                self._waiting -= 1
                return cell

    def _chosen(self) -> int:
        """Which line is next; an agent is the first of each."""
        passed = self._passed
        there = []
        for rank, line in enumerate(self._lines):
            while line and self._left[rank] and self._passes(rank, line[0]):
                line.popleft()
                self._beside -= rank != NORMAL
            if line:
                there.append(rank)
        chosen = next((rank for rank in reversed(there) if passed[rank] >= MOST_PASSED), there[0])
        passed[chosen] = 0
        for rank in there:
            passed[rank] += rank > chosen
        return chosen

    def _passes(self, rank: int, cell: Cell) -> bool:
        """Whether the first place of a line is one that this agent left behind; then it is to be taken out."""
        left = self._left[rank]
        count = left.get(cell, 0)
        if not count:
            return False
        if count > 1:
            left[cell] = count - 1
        else:
            del left[cell]
        self._empty[rank] -= 1
        return True

    def _close_up(self, rank: int) -> None:
        """Take all places left behind out of a line. They are more than half of it: each is paid for by a `hurry`."""
        line = self._lines[rank]
        kept = [cell for cell in line if not self._passes(rank, cell)]
        self._beside -= (len(line) - len(kept)) * (rank != NORMAL)
        self._lines[rank] = deque(kept)

    def end(self) -> None:
        """Begin no more turns."""
        for line in self._lines:
            line.clear()
        for left in self._left:
            left.clear()
        self._empty = [0] * len(PRIORITIES)
        self._waiting = self._beside = 0
        if self._runner is not None:
            self._runner.cancel()

    def _start(self) -> None:
        assert self._group is not None
        self._between = False
        self._runner = self._group.create_task(self._run(), context=self._clean.copy())

    async def _run(self) -> None:
        """Give turns until none is wanted, or one of them had to wait for something."""
        clock = time.monotonic_ns
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        assert me is not None
        loop.call_soon(self._look, me)
        pause_ns = clock() + STEP_NS
        while self._waiting:
            cell = self._next()
            cell.task = me
            await cell.turn()
            if self._runner is not me:
                return
            if me.cancelling() or copy_context() != self._clean:
                break  # What a handler leaves behind in the task that it ran in is not for other agents.
            if clock() >= pause_ns:
                self._between = True
                await asyncio.sleep(0)
                self._between = False
                loop.call_soon(self._look, me)
                pause_ns = clock() + STEP_NS
        self._runner = None
        if self._waiting:
            self._start()

    def _look(self, runner: asyncio.Task[None]) -> None:
        """The runner has run until it had to wait: if a handler made it wait, another takes over."""
        if self._runner is runner and not self._between:
            self._runner = None
            if self._waiting:
                self._start()
