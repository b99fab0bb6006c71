"""`make cost`: messages a second and memory as the work grows; writes docs/cost/*.svg and docs/cost/figures.json.

    python -m benchmarks.cost [--quick]

Each point is a run of its own on a system of its own; one that lost a message ends everything.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ratio import Failed, fair
from swell import codec, gather
from swell.bench import parts
from swell.bench.plot import Panel, plot
from swell.bench.system import own
from swell.lifecycle import loop_factory, tune_gc

OUT = Path(__file__).parents[1] / "docs" / "cost"
MESSAGES = 300_000
#: Bytes of all bodies of a run, at most.
MOST_BYTES = 100 << 20
#: What is varied -> its values, and those of a quick run; the last of each payload is what fits into a message.
SWEEPS: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "agents": ((10, 100, 1_000, 10_000, 100_000), (10, 1_000)),
    "shards": ((1, 2, 8, 32, 64), (1, 8)),
    "senders": ((1, 10, 100), (1, 10)),
    "body": ((10, 100, 1_000, 10_000, 100_000, 1_000_000), (10, 10_000)),
    "workers": ((1, 2), (1, 2)),
    "batch": ((1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 256)),
}


@contextlib.contextmanager
def batches_of(most: int) -> Iterator[None]:
    """Let this process put at most so many messages into a batch."""
    before = codec.MAX_BATCH_MESSAGES, gather.MOST_IN_SERIES
    codec.MAX_BATCH_MESSAGES, gather.MOST_IN_SERIES = most, min(most, before[1])
    try:
        yield
    finally:
        codec.MAX_BATCH_MESSAGES, gather.MOST_IN_SERIES = before


async def point(what: str, value: int) -> dict[str, float]:
    """Throughput at full speed, and P95 at 10,000 messages a second (large bodies: fewer), with one thing varied."""
    system = {"workers": value if what == "workers" else 1, "shards": value if what == "shards" else 8}
    agents = value if what == "agents" else 100
    senders = value if what == "senders" else 1
    body = value if what == "body" else 100
    messages = max(min(MESSAGES, MOST_BYTES // body) // (agents * senders), 1) * agents * senders
    rate = max(10, min(10_000, (20 << 20) // body))
    batch = value if what == "batch" else codec.MAX_BATCH_MESSAGES
    async with own(system["workers"], aof=False, shards=system["shards"]) as one:
        with batches_of(batch):
            through = fair(await parts.throughput(one, messages=messages, agents=agents, body=body, senders=senders))
            timed = fair(await parts.latency(one, rates=[rate], seconds=2.0, agents=min(agents, 10_000), body=body))
    return {
        what: value,
        "messages_per_s": round(through.figures["handled_per_s"]),
        "mib_per_s": round(through.figures["handled_per_s"] * body / (1 << 20), 1),
        "rate": rate,
        "p95_ms": timed.rows[0]["p95_ms"],
    }


async def memory(agents: int) -> dict[str, float]:
    """Memory of an idle agent."""
    async with own(1, aof=False) as one:
        found = fair(await parts.memory(one, agents=agents)).figures
    return {"agents": agents, **{name: round(found[name], 2) for name in found if name.endswith("kib_per_agent")}}


async def sweep(quick: bool) -> dict[str, list[dict[str, Any]]]:
    """All points."""
    found: dict[str, list[dict[str, Any]]] = {}
    for what, (values, few) in SWEEPS.items():
        found[what] = []
        for value in few if quick else values:
            found[what].append(await point(what, value))
            print(json.dumps(found[what][-1]), flush=True)
    found["memory"] = []
    for agents in (1_000,) if quick else (1_000, 10_000, 100_000):
        found["memory"].append(await memory(agents))
        print(json.dumps(found["memory"][-1]), flush=True)
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Points as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---:" for _ in names) + " |"]
    lines += ["| " + " | ".join(f"{row[name]:,}" for name in names) + " |" for row in rows]
    return "\n".join(lines)


def draw(found: dict[str, list[dict[str, Any]]], directory: Path) -> None:
    """One drawing for each sweep; its points stand at equal distances, in the order of the table."""
    directory.mkdir(parents=True, exist_ok=True)
    for what, rows in found.items():
        values = ", ".join(f"{row['agents' if what == 'memory' else what]:,}" for row in rows)
        measured = [name for name in rows[0] if name in ("messages_per_s", "p95_ms") or name.endswith("kib_per_agent")]
        panels = [
            Panel(f"{name} for {what} {values}", {name: [(at, row[name]) for at, row in enumerate(rows, 1)]})
            for name in measured
        ]
        plot(panels, (), directory / f"{what}.svg", unit="points")


def main() -> int:
    """Measure, print the tables, write the drawings."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer points, and nothing is written")
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            found = runner.run(sweep(options.quick))
        except Failed as failed:
            print(f"FAILED: {failed}")
            return 1
    for what, rows in found.items():
        print(f"\n{what}\n\n{table(rows)}")
    if not options.quick:
        draw(found, OUT)
        (OUT / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
