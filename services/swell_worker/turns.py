"""Which agent runs: one task gives them turns, and one that waits for something keeps its task and is left to it.

    woken --> ready: [agent] [agent] ...  --> runner: turn, turn, turn ...  --> at rest
                                                 |
                                                 +-- a handler awaits: this task is the agent's until its turn ends,
                                                     and a new runner goes on with the others

So an agent whose handlers do not wait costs no task and no wake-up of its own; a thousand that wait have a thousand.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swell_worker.cell import Cell

#: How long turns follow each other before everything else in the process has one, nanoseconds.
STEP_NS = 1_000_000


class Turns:
    """Gives turns to the agents of one worker, in the order in which they were woken."""

    def __init__(self) -> None:
        self._ready: deque[Cell] = deque()
        self._group: asyncio.TaskGroup | None = None
        self._clean = Context()
        self._runner: asyncio.Task[None] | None = None
        # Whether the runner waits between two turns, and not in a handler.
        self._between = False

    def attach(self, group: asyncio.TaskGroup) -> None:
        """Give the group in which agents run."""
        self._group = group
        self._clean = copy_context()

    def add(self, cell: Cell) -> None:
        """An agent has something to do; it must not be in line already, nor have its turn."""
        self._ready.append(cell)
        if self._runner is None:
            self._start()

    def end(self) -> None:
        """Begin no more turns."""
        self._ready.clear()
        if self._runner is not None:
            self._runner.cancel()

    def _start(self) -> None:
        assert self._group is not None
        self._between = False
        self._runner = self._group.create_task(self._run(), context=self._clean.copy())

    async def _run(self) -> None:
        """Give turns until none is wanted, or one of them had to wait for something."""
        ready, clock = self._ready, time.monotonic_ns
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        assert me is not None
        loop.call_soon(self._look, me)
        pause_ns = clock() + STEP_NS
        while ready:
            cell = ready.popleft()
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
        if ready:
            self._start()

    def _look(self, runner: asyncio.Task[None]) -> None:
        """The runner has run until it had to wait: if a handler made it wait, another takes over."""
        if self._runner is runner and not self._between:
            self._runner = None
            if self._ready:
                self._start()
