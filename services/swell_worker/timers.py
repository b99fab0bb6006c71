"""Moments of this machine's clock at which something is to be done, for many things, in one task."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

from swell.clock import now_ms

_T = TypeVar("_T")
#: However far the next one is, the clock is looked at again after so long, in case somebody has set it; seconds.
MOST_SLEEP_S = 30.0


class Timers(Generic[_T]):
    """What is due when.

    Args:
        due: called with what was added, at its time or a little later.
    """

    def __init__(self, due: Callable[[_T], None]) -> None:
        self._call = due
        self._heap: list[tuple[int, int, _T]] = []
        self._numbers = itertools.count()
        self._news = asyncio.Event()

    def add(self, at_ms: int, what: _T) -> None:
        """Have something done at `at_ms`, milliseconds since 1970."""
        number = next(self._numbers)
        heapq.heappush(self._heap, (at_ms, number, what))
        if self._heap[0][1] == number:
            self._news.set()

    def drop(self, unwanted: Callable[[_T], bool]) -> None:
        """Take back all for which this holds."""
        self._heap = [one for one in self._heap if not unwanted(one[2])]
        heapq.heapify(self._heap)

    async def run(self) -> None:
        """Do what is due until cancelled."""
        while True:
            while self._heap and self._heap[0][0] <= now_ms():
                self._call(heapq.heappop(self._heap)[2])
            wait_s = min((self._heap[0][0] - now_ms()) / 1000, MOST_SLEEP_S) if self._heap else None
            self._news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass
