"""Has every file of the standard library read with a low priority, and asks for one of them meanwhile.

swell up --app examples.priorities.app:app     in one terminal
python -m examples.priorities                  in another
"""

from __future__ import annotations

import asyncio
import sys
import sysconfig
from pathlib import Path

from examples.priorities.app import Known
from swell import SwellError
from swell.cli.target import Target, connected

AGENT = "librarian/1"


async def main(files: list[str]) -> None:
    """Send the bulk, ask twice, and compare."""
    async with connected(Target()) as client:
        plan = await client.spawn("librarian", keys=["1"])
        await plan.wait()
        await client.send_many([(AGENT, "read", path) for path in files], priority="low")
        asking: asyncio.Task[Known] = asyncio.ensure_future(
            client.ask(AGENT, "look_up", files[-1], Known, priority="low")
        )
        urgent: Known = await client.ask(AGENT, "look_up", files[-1], Known, priority="critical")
        patient: Known = await asking
        print(f"{len(files)} files to read")
        print(
            f"a critical question was answered after {urgent.files} of them, one of low priority after {patient.files}"
        )
        print("both say the same" if urgent.digest == patient.digest else "they differ")
        await client.terminate(AGENT)


if __name__ == "__main__":
    try:
        asyncio.run(main([str(path) for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]))
    except SwellError as error:
        sys.exit(f"error: {error}")
