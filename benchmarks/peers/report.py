"""The table of a comparison, for a terminal and for docs/peers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.peers.contract import Facts
from benchmarks.peers.figures import AtRate, Summary


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        name: its module.
        facts: about it.
        version: of its package.
        summary: its figures; None if it did not run.
        error: why it did not run, or what went wrong in some of the rounds; empty if nothing did.
    """

    name: str
    facts: Facts
    version: str
    summary: Summary | None
    error: str = ""


@dataclass(frozen=True)
class Setting:
    """Where and how it was measured.

    Attributes:
        date: of the run, ISO 8601.
        machine: processor, cores, system.
        python: version.
        server: version.
        persistence: what the server writes to disk.
        rounds: turns of each system.
        seconds: that the whole run took.
        command: that repeats it.
    """

    date: str
    machine: str
    python: str
    server: str
    persistence: str
    rounds: int
    seconds: float
    command: str


def cells(row: Row, rates: Sequence[int]) -> list[str]:
    """One line of the table of figures."""
    if row.summary is None:
        return [row.facts.title, row.version, "did not run", *[""] * (len(rates) + 2)]
    summary = row.summary
    throughput = f"{summary.throughput:,.0f}" + ("" if summary.verified else " (not all handled)")
    asks = f"{summary.asks:,.0f} / {summary.ask_p95_ms:.1f}" if summary.asks else "-"
    ratio = f"{summary.ratio:,.1f}"
    return [row.facts.title, row.version, throughput, ratio, *map(_latency, summary.rates), asks]


def _latency(measure: AtRate) -> str:
    times = f"{measure.p50_ms:.1f} / {measure.p95_ms:.1f} / {measure.p99_ms:.1f}"
    if not measure.fast_enough:
        times = f"only {measure.achieved:,.0f}/s, growing: {times}"
    if measure.handled != measure.sent:
        times += f" (handled {measure.handled:,} of {measure.sent:,})"
    return times


def heads(rates: Sequence[int]) -> list[str]:
    """The first line of the table of figures."""
    latencies = [f"P50 / P95 / P99 at {rate:,}/s, ms" for rate in rates]
    return ["system", "version", "msg/s", "Swell is x faster", *latencies, "round trips/s / P95 ms"]


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(head), ["---"] * len(head), *escaped])


def plain_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table for a terminal."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rows = [head, ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


HOW = """\
## What is measured
- One process sends, one process handles, a server of its own for every turn; all on the loopback of one machine.
  Messages are 100 characters. The handler does nothing but count, and take the time where latency is measured.
- **msg/s**: from the first send until the last message is handled *and* acknowledged; both are checked: as many
  handled as sent, and the system holds nothing any more. Shorter runs before it find how many messages fill the time.
- **P50, P95, P99**: open loop. Each message is due at a time of its own, and is late from then on, whatever kept it: a
  system that falls behind shows as latency. "only N/s, growing" says that it handled less than 95% of the rate, so
  that its latency is the length of the measure and not its own.
- **round trips**: 100 callers in one process, each asks again when it is answered.
- **Swell is x faster**: the median of the ratios of throughput to a turn of Swell right before or after, because the
  machine's speed changes over minutes. All other figures are medians of the rounds.

## Fairness
Every system runs in a virtual environment of its own with the versions in `benchmarks/peers/requirements`, on uvloop
and hiredis where it supports them, against the same server with the same persistence. Each has the fastest way that
its documentation names: bulk calls or many calls at once, concurrency, prefetch, results switched off where nobody
asks for them. Corrections from people who know a system better are welcome: each is one short file in
`benchmarks/peers`.

Task queues that schedule, retry and keep a record of each task do more for a task than a message needs. Swell's
messages are addressed to agents and handled in order, which none of the task queues does. The heavier the handler,
the less any of these figures matters.
"""


def markdown(rows: Sequence[Row], setting: Setting, rates: Sequence[int]) -> str:
    """The dated report."""
    guarantees = [
        [row.facts.title, row.facts.delivery, row.facts.after_kill, row.facts.order, row.facts.asks or "-"]
        for row in rows
    ]
    tuned = "\n".join(_tuned(row) for row in rows)
    errors = "\n".join(f"- {row.facts.title}: {row.error}" for row in rows if row.error)
    parts = [
        f"# Beside other systems, {setting.date}",
        f"{setting.machine}; Python {setting.python}; {setting.server}, {setting.persistence}. "
        f"{setting.rounds} rounds in turns, {setting.seconds / 60:.0f} minutes. Repeat it with `{setting.command}`.",
        markdown_table(heads(rates), [cells(row, rates) for row in rows]),
        *(["## What went wrong", errors] if errors else []),
        "## What each promises, as it was set up",
        "From documentation and sources; only Swell's is tested here (see [reliability.md](../reliability.md)).",
        markdown_table(
            ["system", "delivery", "after kill -9 of the worker", "order", "results"],
            guarantees,
        ),
        HOW.rstrip(),
        "## What was tuned",
        tuned,
    ]
    return "\n\n".join(parts) + "\n"


def _tuned(row: Row) -> str:
    options = "; ".join(f"`{option}`" + (f": {why}" if why else "") for option, why in row.facts.tuned.items())
    return f"- **{row.facts.title}**: {options}." + (f" Note: {row.facts.note}." if row.facts.note else "")


def as_json(rows: Sequence[Row], setting: Setting) -> dict[str, Any]:
    """Everything, for programs."""
    return {"setting": asdict(setting), "systems": [_row_json(row) for row in rows]}


def _row_json(row: Row) -> Mapping[str, Any]:
    return {"name": row.name, "version": row.version, **asdict(row.facts)} | {
        "error": row.error,
        "figures": asdict(row.summary) if row.summary else None,
    }
