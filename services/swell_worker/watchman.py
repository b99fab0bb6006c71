"""Time limits of handlers, without a timer for each message.

The watchman looks at the agents that are awake, several times within the shortest limit. One that is still in the same
handler as when its limit began to run has its handler cancelled; the cell turns that into a failed attempt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from swell.app import App
from swell_worker.cell import Cell
from swell_worker.host import Fleet

#: Looks within the shortest limit: a handler is cancelled at most a quarter of the limit late.
LOOKS = 4
LEAST_S = 0.02
MOST_S = 0.5


def look_every_s(app: App) -> float | None:
    """How often to look, seconds; None if no type has a limit."""
    limits = [type.timeout for type in app.types.values() if type.timeout is not None]
    return min(max(min(limits) / LOOKS, LEAST_S), MOST_S) if limits else None


def overdue(cells: Iterable[Cell], now: float) -> list[Cell]:
    """Cells whose handler has run past its limit; remembers when it saw each handler first."""
    late = []
    for cell in cells:
        runs, since = cell.watched
        if cell.runs != runs or not cell.busy:
            cell.watched = (cell.runs, now)
        elif cell.type.timeout is not None and now - since >= cell.type.timeout:
            late.append(cell)
    return late


async def watch(fleet: Fleet) -> None:
    """Cancel overdue handlers until cancelled."""
    every_s = look_every_s(fleet.app)
    while every_s is not None:
        await asyncio.sleep(every_s)
        now = time.monotonic()
        for cell in overdue(fleet.awake, now):
            cell.time_out(now)
