"""What the agents of a type have in common (processes, threads, connections) is let go when their worker has ended."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from swell.logs import visible

if TYPE_CHECKING:
    from swell.app import App

log = logging.getLogger(__name__)

#: How long that may take for all types together, seconds: it is killing and closing, none of which waits for others.
RELEASE_S = 2.0


async def release(app: App) -> None:
    """Let go of what the types of an app share in this process, in which no worker of it may be running any more."""
    try:
        async with asyncio.timeout(RELEASE_S):
            for kind in dict.fromkeys(type.cls for type in app.types.values()):
                try:
                    await kind._swell_release()
                except Exception as error:  # noqa: BLE001 - the others are let go all the same
                    log.warning(
                        "what agents of class %s shared was not let go: %s", kind.__name__, visible(repr(error))
                    )
    except TimeoutError:
        log.warning("what agents shared was not let go within %g s", RELEASE_S)
