"""The table of faults: each test appends a row to a file of JSON lines; `python -m tests.chaos.report` prints them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from tests.chaos.account import Verdict, median_and_most

ROWS = Path(__file__).parents[2] / "out" / "chaos.jsonl"


class Row(msgspec.Struct, kw_only=True):
    """What one fault test saw.

    Attributes:
        fault: which test, with its number: "1 kill -9 of a worker".
        rate: messages a second that were acknowledged.
        faults: how often the fault was done.
        handled_twice: handlings beyond the first of each message.
        recovery_s: median and most, seconds, None if nothing had to recover.
        server: which one ran.
        notes: further figures.
    """

    fault: str
    seed: int
    long: bool
    rate: float
    faults: int
    messages: int
    lost: int
    reordered: int
    handled_twice: int
    recovery_s: tuple[float | None, float | None] = (None, None)
    server: str = "valkey"
    notes: dict[str, float | int | str] = {}


class Rows:
    """Where a test's rows go.

    Args:
        path: the file.
        seed: of the test.
        long: whether it ran in its long size.
        server: which one.
    """

    def __init__(self, path: Path, seed: int, long: bool, server: str = "valkey") -> None:
        self._path = path
        self._seed = seed
        self._long = long
        self._server = server

    def add(
        self,
        fault: str,
        verdict: Verdict,
        faults: int,
        seconds: float,
        recovery_s: Sequence[float] = (),
        **notes: object,
    ) -> None:
        """Append what a test saw.

        Args:
            seconds: how long the load ran.
            recovery_s: from each fault until all was well again.
        """
        row = Row(
            fault=fault,
            seed=self._seed,
            long=self._long,
            rate=round(verdict.messages / seconds, 1) if seconds else 0.0,
            faults=faults,
            messages=verdict.messages,
            lost=len(verdict.lost),
            reordered=len(verdict.reordered),
            handled_twice=verdict.repeats,
            recovery_s=median_and_most(recovery_s),
            server=self._server,
            notes={name: msgspec.convert(value, float | int | str) for name, value in notes.items()},
        )
        self._path.parent.mkdir(exist_ok=True)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")


HEAD = (
    "fault",
    "load, msg/s",
    "faults",
    "messages",
    "lost",
    "reordered",
    "handled again",
    "recovery, s",
    "more",
    "seed",
)


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines: list[tuple[str, ...]] = [HEAD, ("---",) + ("---:",) * 6 + ("---",) * 3]
    for row in rows:
        median, most = row.recovery_s
        recovery = f"{median:.2f} / {most:.2f}" if median is not None and most is not None else "-"
        more = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in row.notes.items())
        figures = (f"{row.rate:,.0f}", row.faults, f"{row.messages:,}", row.lost, row.reordered, row.handled_twice)
        seed = f"{row.seed}{' long' if row.long else ''}"
        lines.append((row.fault, *map(str, figures), recovery, more or "-", seed))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(path: Path = ROWS) -> int:
    """Print the newest row of each fault and size."""
    if not path.exists():
        print(f"there is no {path}: run `make chaos` first", file=sys.stderr)
        return 1
    newest: dict[tuple[str, bool, str], Row] = {}
    for line in path.read_bytes().splitlines():
        row = msgspec.json.decode(line, type=Row)
        newest[row.fault, row.long, row.server] = row
    print(table(sorted(newest.values(), key=lambda row: (row.long, int(row.fault.split()[0]), row.fault))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
