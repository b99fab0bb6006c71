"""Fills shelves, and has them let go, paused, drained, set apart and taken away.

swell up --app examples.lifecycle.app:app     in one terminal
python -m examples.lifecycle                  in another
"""

from __future__ import annotations

import asyncio
import sys

from examples.lifecycle.app import Book
from swell import AgentView, Client, SwellError, field
from swell.cli.target import Target, connected
from swell.wire import AgentState

SHELVES = [f"shelf/{key}" for key in "abcdef"]


async def until(client: Client, state: AgentState, count: int) -> list[AgentView]:
    """Return the shelves of a state when there are so many."""
    for _ in range(200):
        found = await client.agents("shelf", state)
        if len(found) >= count:
            return found
        await asyncio.sleep(0.05)
    raise SwellError(f"only {len(found)} shelves are {state} after 10 s")


async def main() -> None:
    """Show each in turn."""
    async with connected(Target()) as client:
        plan = await client.spawn("shelf", keys=[id.partition("/")[2] for id in SHELVES])
        await plan.wait()
        await client.send_many((id, "put", Book(f"volume {n}", 100 + n)) for n in range(50) for id in SHELVES)
        await until(client, "passive", len(SHELVES))
        print("all six are filled, idle and let go: no database is open")
        print("shelf/a is wanted again, and has", await client.ask("shelf/a", "count"), "books")

        await client.pause("shelf/b", reason="it is being dusted")
        await client.send("shelf/b", "put", Book("came while it was paused", 10))
        (view,) = [view for view in await client.agents("shelf") if view.id == "shelf/b"]
        print(f"shelf/b is {view.state} ({view.reason}), {view.queued} message waits")
        await client.resume("shelf/b")
        print("shelf/b goes on, and has", await client.ask("shelf/b", "count"), "books")

        for number in range(3):
            await client.send("shelf/c", "put", Book(f"a fake {number}", 0))
        found = await until(client, "quarantined", 1)
        print(f"{found[0].id} is {found[0].state}: {found[0].reason.partition(';')[0]}")
        where = field("key").is_in(["d", "e"]) & (field("restarts") == 0)
        print("by a condition:", *await client.quarantine("shelf", where=where, reason="to be checked"))
        await client.resume(type="shelf", all=True)

        await client.send_many((id, "put", Book(f"volume {n}", 100 + n)) for n in range(50, 60) for id in SHELVES)
        print("drained:", await client.drain(type="shelf", reason="closing time"), "shelves")
        await client.resume(type="shelf")
        counts: list[int] = [await client.ask(id, "count", None, int) for id in SHELVES]
        print("nothing is missing:", *counts)

        await client.limit("shelf", concurrency=1, rate=200)
        (limits,) = await client.types()
        print(f"limited to {limits.concurrency} at once, {limits.rate:g} a second")
        await client.limit("shelf", reset=True)

        for size in (4, 0):
            plan = await client.resize("shelf", size, wave_size=2)
            last = await plan.wait()
            print(f"resized to {size}: {last.ready} ended, in waves of two: {last.waves}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SwellError as error:
        sys.exit(f"error: {error}")
