"""Time, read in two ways: the wall for what others compare, the monotonic clock for what we wait for."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the rest of Swell asks of a clock; tests give a fake one."""

    def now_us(self) -> int:
        """Microseconds since 1970."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary point, never going back."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now_us(self) -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds from an arbitrary point, never going back."""
        return time.monotonic()


SYSTEM = SystemClock()


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
