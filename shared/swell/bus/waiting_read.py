"""A read that waits on a connection of its own, and that others can end."""

from __future__ import annotations

import asyncio
from typing import Any

from swell.bus.link import Link

#: How long `wake` waits for a read that was just sent to begin waiting, seconds.
_AGAIN_S = 0.005


class WaitingRead:
    """One read at a time.

    Args:
        link: its connection.
        beside: another one, for the calls that end the wait.
    """

    def __init__(self, link: Link, beside: Link) -> None:
        self.link = link
        self._beside = beside
        self._client = (0, 0)
        self._ended = asyncio.Event()
        self._ended.set()

    async def call(self, *command: Any, block_ms: int) -> Any:
        """Send a command that waits up to `block_ms`, and read its reply.

        Raises:
            BrokerError: see `Link.call`.
        """
        link = self.link
        self._ended.clear()
        try:
            if self._client[0] != link.generation or link.generation == 0:
                client = int(await link.call("CLIENT", "ID"))
                self._client = (link.generation, client)
            return await link.call(*command, wait_s=block_ms / 1000)
        finally:
            self._ended.set()

    async def wake(self) -> None:
        """End the read that waits now, with nothing."""
        while not self._ended.is_set():
            # 0: the read was sent but does not wait yet, or has just ended. Then its end, or another try, comes soon.
            if await self._beside.call("CLIENT", "UNBLOCK", self._client[1]):
                return
            try:
                await asyncio.wait_for(self._ended.wait(), _AGAIN_S)
            except TimeoutError:
                continue


def block(milliseconds: int) -> tuple[Any, ...]:
    """How long to wait; to Redis, BLOCK 0 is for ever."""
    return ("BLOCK", milliseconds) if milliseconds else ()
