"""`make peers`: the same work on Swell and on other systems, in turns; one table and a dated report.

    python -m benchmarks.peers [--only NAME ...] [--rounds N] [--quick] [--no-aof] [--json] [--write]

Each system has a virtual environment of its own below out/peers, made at the first run. A system that cannot run is
named with its error. The whole run takes about ten minutes and ends by itself; everything stays on the loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.peers import environments, processes, turn
from benchmarks.peers.contract import Facts
from benchmarks.peers.figures import Turn, summarise
from benchmarks.peers.report import Row, Setting, as_json, cells, heads, markdown, plain_table

SWELL = "swell"
#: The systems beside it, and the environment of each (a file in `requirements`).
PEERS = {
    "faststream": "faststream",
    "faststream_list": "faststream",
    "streaq": "streaq",
    "taskiq": "taskiq",
    "saq": "saq",
    "arq": "arq",
    "bullmq": "bullmq",
    "docket": "docket",
    "dramatiq": "dramatiq",
    "celery": "celery",
    "ray": "ray",
    "autogen": "autogen",
}
ROUNDS = 3
REPORTS = environments.ROOT / "docs" / "peers"


def groups(names: Sequence[str]) -> Iterator[list[str]]:
    """The order of one round: Swell's turn lies right between those of two others."""
    for first in range(0, len(names), 2):
        yield [*names[first : first + 1], SWELL, *names[first + 1 : first + 2]]


class Comparison:
    """The turns of all systems.

    Args:
        names: of the systems beside Swell.
        sizes: how long each part of a turn takes.
        aof: whether the servers keep an append-only file.
    """

    def __init__(self, names: Sequence[str], sizes: turn.Sizes, aof: bool) -> None:
        self._sizes = sizes
        self._aof = aof
        # Until its module has told more, all that is known is its name.
        self.facts = {
            name: Facts(name, name, delivery="", after_kill="", order="", asks="") for name in (SWELL, *names)
        }
        self.turns: dict[str, list[Turn]] = {name: [] for name in self.facts}
        self.beside: dict[str, list[Turn]] = {name: [] for name in self.facts}
        self.errors: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._pythons: dict[str, Path] = {}

    def prepare(self) -> None:
        """Make the environments that are missing."""
        for name in self.facts:
            try:
                python = environments.python_of(PEERS.get(name, ""))
                facts = self.facts[name] = environments.facts_of(python, name)
                self.versions[name] = environments.version_of(python, facts.package)
                self._pythons[name] = python
            except environments.NotInstalled as error:
                self.errors[name] = f"cannot be installed: {error}"
                say(f"{name}: {self.errors[name]}")

    def round(self, number: int) -> None:
        """Let every system have its turn."""
        able = [name for name in self.facts if name != SWELL and name in self._pythons]
        for group in groups(able) if able else [[SWELL]]:
            seen: dict[str, Turn] = {}
            for name in group:
                if (one := self._turn(name, number)) is not None:
                    seen[name] = one
            if SWELL in seen:
                for name, one in seen.items():
                    self.turns[name].append(one)
                    self.beside[name].append(seen[SWELL])

    def _turn(self, name: str, number: int) -> Turn | None:
        try:
            one = turn.measure(name, self.facts[name], self._pythons[name], self._sizes, self._aof)
        except processes.PeerFailed as error:
            self.errors[name] = f"round {number}: {error}"
            say(f"{name}: {self.errors[name]}")
            return None
        latencies = ", ".join(f"P95 at {at.rate:,}/s {at.p95_ms:.1f} ms" for at in one.rates)
        say(f"round {number}  {name}: {one.throughput:,.0f} msg/s, {latencies}, {one.asks:,.0f} round trips/s")
        return one

    def rows(self) -> list[Row]:
        """What was seen: Swell first, then the fastest."""
        made = []
        for name, facts in self.facts.items():
            summary = summarise(self.turns[name], self.beside[name]) if self.turns[name] else None
            made.append(Row(name, facts, self.versions.get(name, ""), summary, self.errors.get(name, "")))
        return sorted(made, key=lambda row: (row.name != SWELL, -(row.summary.throughput if row.summary else 0)))


def say(line: str) -> None:
    """Progress, beside the output."""
    print(line, file=sys.stderr, flush=True)


def machine() -> str:
    """What it runs on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def write(report: str, data: dict[str, object], date: str) -> Path:
    """Write the dated report and its data."""
    REPORTS.mkdir(exist_ok=True)
    path = REPORTS / f"{date}.md"
    path.write_text(report)
    path.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    return path


def main() -> int:
    """Compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[SWELL, *PEERS], metavar="NAME", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="one short round: whether all of it works, not how fast")
    parser.add_argument("--no-aof", action="store_true", help="the servers keep nothing on disk")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--write", action="store_true", help="write docs/peers/<date>.md and .json")
    options = parser.parse_args()
    # So that children are ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    names = [name for name in (PEERS if options.only is None else options.only) if name != SWELL]
    comparison = Comparison(names, turn.QUICK if options.quick else turn.Sizes(), not options.no_aof)
    comparison.prepare()
    rounds = 1 if options.quick else options.rounds
    for number in range(1, rounds + 1):
        comparison.round(number)
    rows = comparison.rows()
    date = datetime.now(UTC).date().isoformat()
    setting = Setting(
        date=date,
        machine=machine(),
        python=platform.python_version(),
        server=processes.server_version(),
        persistence="which keeps nothing on disk" if options.no_aof else "with an append-only file, everysec",
        rounds=rounds,
        seconds=time.monotonic() - began,
        command="make peers",
    )
    data = as_json(rows, setting)
    if options.json:
        print(json.dumps(data, indent=1))
    else:
        print(plain_table(heads(turn.RATES), [cells(row, turn.RATES) for row in rows]))
    if options.write:
        say(f"written: {write(markdown(rows, setting, turn.RATES), data, date).relative_to(environments.ROOT)}")
    return 0 if comparison.turns[SWELL] and all(one.verified for one in comparison.turns[SWELL]) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
