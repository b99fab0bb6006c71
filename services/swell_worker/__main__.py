"""`python -m swell_worker`: one worker, with its settings from the environment."""

from __future__ import annotations

import asyncio
import sys

from swell import config, lifecycle
from swell_worker.app import main


async def _main(stop: asyncio.Event) -> None:
    # Read inside the run, so that a wrong setting ends like everything else that cannot work: one line, exit code 2.
    await main(config.load(), stop)


if __name__ == "__main__":
    sys.exit(lifecycle.run(_main))
