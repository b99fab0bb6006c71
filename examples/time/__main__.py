"""Brews tea with messages for later, looks after it by a schedule, and asks what is worth an answer only now.

swell up --app examples.time.app:app     in one terminal
python -m examples.time                  in another
"""

from __future__ import annotations

import asyncio
import sys

from examples.time.app import Cup, Log
from swell import Expired, SwellError
from swell.cli.target import Target, connected

POT = "pot/blue"
#: Looks at the pot until the program ends.
CHECKS = 2


async def main() -> None:
    """Brew, look, ask."""
    async with connected(Target()) as client:
        plan = await client.spawn("pot", keys=["blue"])
        await plan.wait()
        await client.schedule("look", POT, "check", every=1)
        await client.send_many((POT, "brew", Cup(kind)) for kind in ("mint", "green"))
        for _ in range(100):
            await asyncio.sleep(0.2)
            log: Log = await client.ask(POT, "log", None, Log)
            if log.checks >= CHECKS:
                break
        print(f"brewed {', '.join(log.brewing)}; ready: {', '.join(log.ready)}; looked {log.checks} times")
        await client.send(POT, "scrub", 1.0)
        try:
            await client.ask(POT, "log", None, Log, ttl=0.3)
        except Expired as error:
            print(f"too late: {error}")
        print("the schedule is removed:", await client.unschedule("look", POT))
        await client.terminate(plan=plan.id)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SwellError as error:
        sys.exit(f"time: {error}")
