"""Spawns an agent whose rules are compiled already, and one whose are not.

swell up --app examples.pools.app:app     in one terminal
python -m examples.pools                  in another
"""

from __future__ import annotations

import asyncio
import sys
import time

from swell import SwellError
from swell.cli.target import Target, connected


async def main() -> None:
    """Spawn one of each, and ask both."""
    async with connected(Target()) as client:
        for type in ("warm", "cold"):
            began = time.perf_counter()
            plan = await client.spawn(type, keys=["a"])
            await plan.wait()
            took_ms = (time.perf_counter() - began) * 1000
            broken: bool = await client.ask(f"{type}/a", "breaks", "a text with rule0042abc in it", bool)
            print(f"{type}: ready after {took_ms:.1f} ms; the text breaks a rule: {broken}")
        await client.terminate("warm/a", "cold/a")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SwellError as error:
        sys.exit(f"error: {error}")
