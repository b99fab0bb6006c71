"""Each target beside what was measured."""

from __future__ import annotations

import csv
import dataclasses
import io
import platform
from collections.abc import Sequence
from typing import Any, NamedTuple

from swell import __version__
from swell.validate.running import Measured
from swell.validate.scenarios import SCENARIOS, Scenario

#: Target -> its words, and whether more is better.
WORDS = {
    "spawn_p95_ms": ("P95 of a spawn, ms", False),
    "message_p95_ms": ("P95 of a message, ms", False),
    "task_p95_ms": ("P95 of a task, ms", False),
    "operations_per_s": ("operations/s", True),
    "success": ("success", True),
    "kib_per_agent": ("memory of an agent, KiB", False),
}


class Line(NamedTuple):
    """One target of one scenario."""

    scenario: str
    what: str
    target: float
    measured: float
    met: bool


def lines(scenario: Scenario, measured: Measured) -> list[Line]:
    """The targets of a scenario beside what was measured."""
    found = []
    for name, (words, more) in WORDS.items():
        target = getattr(scenario.targets, name)
        if target is not None:
            value = measured.values[name]
            found.append(Line(scenario.name, words, target, value, value >= target if more else value <= target))
    return found


def verdict(done: Sequence[tuple[Scenario, Measured]]) -> bool:
    """Whether every target was met and no message was lost, doubled or out of order."""
    return all(line.met for pair in done for line in lines(*pair)) and not any(m.delivery.problems for _, m in done)


def as_document(done: Sequence[tuple[Scenario, Measured]], *, quick: bool) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "swell": __version__,
        "python": platform.python_version(),
        "quick": quick,
        "passed": verdict(done),
        "scenarios": [
            {
                "scenario": dataclasses.asdict(scenario),
                "measured": measured,
                "problems": measured.delivery.problems,
                "targets": [line._asdict() for line in lines(scenario, measured)],
            }
            for scenario, measured in done
        ],
    }


def as_csv(done: Sequence[tuple[Scenario, Measured]]) -> str:
    """One row for each target."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Line._fields)
    for pair in done:
        writer.writerows(lines(*pair))
    return out.getvalue()


def as_markdown(done: Sequence[tuple[Scenario, Measured]], *, quick: bool) -> str:
    """The report."""
    parts = [
        f"# Validation of Swell {__version__}\n",
        f"Python {platform.python_version()}, {platform.platform()}. "
        + ("A quick run, a tenth of each scenario: it validates nothing. " if quick else "")
        + ("All targets are met.\n" if verdict(done) else "Not all targets are met.\n"),
        "| scenario | what | target | measured | |\n| --- | --- | ---: | ---: | --- |",
    ]
    for pair in done:
        for line in lines(*pair):
            met = "met" if line.met else "**missed**"
            target, measured_ = number(line.target), number(line.measured)
            parts += [f"| {line.scenario} | {line.what} | {target} | {measured_} | {met} |"]
    parts.append(
        "\n| scenario | agents | messages | tasks | sent | handled | twice | out of order | dead | why these targets |"
    )
    parts.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for scenario, measured in done:
        d = measured.delivery
        parts.append(
            f"| {scenario.name} | {scenario.agents:,} | {scenario.messages:,} | {scenario.tasks:,} | {d.sent:,} "
            f"| {d.handled:,} | {d.duplicated:,} | {d.reordered:,} | {d.dead:,} | {SCENARIOS[scenario.name].asked_by} |"
        )
    for scenario, measured in done:
        if len(measured.rows) > 1:
            parts += [f"\n## {scenario.name}, every ten seconds\n", "| s | P95, ms | P99, ms | memory, MiB |"]
            parts.append("| ---: | ---: | ---: | --- |")
            parts += [
                f"| {row['second']} | {row['p95_ms']:.2f} | {row['p99_ms']:.2f} | "
                + ", ".join(f"{name.split('-')[0]} {mib:g}" for name, mib in row["memory_mib"].items())
                + " |"
                for row in measured.rows
            ]
    return "\n".join(parts) + "\n"


def number(value: float) -> str:
    """A figure for people."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
