"""How durable a message must be before its sender is told so.

    local         the server has it in memory, and in its append-only file as `appendfsync` says
    fsync         it is on the server's disk (WAITAOF)
    replicas:N    N replicas have it in memory (WAIT)

Both commands cover what was sent on the same connection before them, and neither works inside a function, so they
follow the call in one pipeline. A call that is not confirmed in time is repeated; append knows its own duplicates.
"""

from __future__ import annotations

from typing import Any

from swell.bus.link import Link
from swell.errors import BrokerRefused, BrokerUnavailable

#: How long the server may wait for a confirmation before the call is repeated, milliseconds.
CONFIRM_MS = 1000


class Confirmation:
    """What is sent behind a call, and what its answer must be.

    Args:
        durability: `local`, `fsync` or `replicas:N`.

    Attributes:
        command: sent behind the call; empty if nothing is.
    """

    def __init__(self, durability: str) -> None:
        self.command: tuple[Any, ...] = ()
        self._replicas = 0
        if durability == "fsync":
            self.command = ("WAITAOF", 1, 0, CONFIRM_MS)
        elif durability != "local":
            self._replicas = int(durability.partition(":")[2])
            self.command = ("WAIT", self._replicas, CONFIRM_MS)

    async def probe(self, link: Link) -> None:
        """Make sure that the server can confirm at all.

        Raises:
            BrokerRefused: it cannot; the text says what to change.
        """
        if not self.command or self._replicas:
            return
        try:
            await link.call("WAITAOF", 1, 0, 1)
        except BrokerRefused as error:
            text = str(error).lower()
            if "unknown command" in text:
                advice = "it needs Redis 7.2 or newer, or Valkey 8 or newer; or set SWELL_DURABILITY=local"
            elif "appendonly" in text:
                advice = "set `appendonly yes` on the server, or SWELL_DURABILITY=local"
            else:
                raise
            raise BrokerRefused(f"durability fsync: the server cannot confirm what is on its disk: {advice}") from None

    def check(self, answer: Any) -> None:
        """Look at the answer of `command`.

        Raises:
            BrokerUnavailable: what was sent is not durable yet, as far as the server knows.
        """
        if self._replicas:
            if answer < self._replicas:
                raise BrokerUnavailable(f"{answer} of {self._replicas} replicas confirmed within {CONFIRM_MS} ms")
        elif not answer[0]:
            raise BrokerUnavailable(f"the server did not write to its disk within {CONFIRM_MS} ms")
