"""The memory broker's time, and the ids that its streams make of it."""

from __future__ import annotations

from typing import NamedTuple


class Instant(NamedTuple):
    """The server's time: `ms` measures leases and TTLs, `us` (since 1970) makes epochs and entry ids."""

    ms: int
    us: int


class Ids:
    """Stream ids `ms-seq`, each greater than the one before whatever the clock does."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = (0, 0)

    def next(self, now: Instant) -> str:
        """The id of an entry added now."""
        ms, seq = self._last
        self._last = (now.us // 1000, 0) if now.us // 1000 > ms else (ms, seq + 1)
        return f"{self._last[0]}-{self._last[1]}"


def order(id: str) -> tuple[int, int]:
    """What entry ids are compared by: "5-0" and "5" are the same place, "10-0" comes behind it."""
    ms, _, seq = id.partition("-")
    return int(ms), int(seq or 0)
