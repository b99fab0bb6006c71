"""A function in threads: for work that waits in calls which block."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

#: Threads for one agent type in one worker, unless it says otherwise.
THREADS = 32


class Threads:
    """The threads of one agent type in one worker, started when they are needed.

    A thread cannot be cancelled. One whose time is over goes on by itself until the function returns, and what it
    returns is dropped; the agent's next run waits for it, within its own time limit.

    Args:
        call: the function.
        most: threads at a time; None for THREADS.
    """

    def __init__(self, call: Callable[..., Any], most: int | None) -> None:
        self._call = call
        self._most = most or THREADS
        self._pool: ThreadPoolExecutor | None = None

    async def handle(self, agent: Any, *body: Any) -> Any:
        """Run the function with a body in a thread, one message of an agent at a time."""
        left: asyncio.Future[Any] | None = getattr(agent, "_left", None)
        if left is not None and not left.done():
            await asyncio.wait({left})
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._most, f"swell-{getattr(self._call, '__name__', 'function')}")
        context = contextvars.copy_context()
        running = asyncio.get_running_loop().run_in_executor(self._pool, partial(context.run, self._call, *body))
        agent._left = running
        try:
            return await asyncio.shield(running)
        finally:
            if running.done():
                agent._left = None
            else:
                running.add_done_callback(_dropped)

    async def close(self) -> None:
        """End the threads that wait, and begin nothing more; what runs goes on until it returns."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _dropped(running: asyncio.Future[Any]) -> None:
    """Nobody waits for this any more: its error is not one unheard."""
    if not running.cancelled():
        running.exception()
