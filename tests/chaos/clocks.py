"""A wall clock that a test moves, in a worker's process; monotonic clocks stay as they are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def shift(path: Path, seconds: float) -> None:
    """Set the wall clock of the processes that follow `path` so many seconds ahead (or, negative, behind)."""
    new = path.with_suffix(".new")
    new.write_text(str(int(seconds * 1e9)))
    new.replace(path)


def follow_test_clock(path: Path) -> None:
    """From now on `time.time` and `time.time_ns` of this process are off by the nanoseconds that the file holds."""
    real = time.time_ns
    stat: Callable[[Path], os.stat_result] = os.stat
    known: list[int] = [0, 0]  # when the file was changed last, and what it said

    def time_ns() -> int:
        changed = stat(path).st_mtime_ns
        if changed != known[0]:
            known[:] = [changed, int(path.read_text())]
        return real() + known[1]

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def find_faketime() -> str | None:
    """The library that can give a server's process another wall clock: `LIBFAKETIME`, or Debian's; None without."""
    given = os.environ.get("LIBFAKETIME")
    found = [given] if given else sorted(map(str, Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")))
    return found[0] if found else None


def faketime_variables(library: str, control: Path) -> dict[str, str]:
    """Variables of a process whose wall clock is off by the seconds that a file holds ("+3600"), at once."""
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(control),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
