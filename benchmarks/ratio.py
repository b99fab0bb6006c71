"""`make ratio`: Swell beside the raw path, in turns in one run, and what the design asks of it.

    python -m benchmarks.ratio [--aof] [--rounds N] [--quick] [--json FILE]
    python -m benchmarks.ratio --guard     the throughput ratio alone, shortly; fails if it fell (benchmarks/floor.json)

Each figure of Swell is the median of the rounds; a ratio is the median of the ratios of neighbours in time. A run in
which a message was lost, doubled or out of order fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.kill import Bench, kill
from benchmarks.limits import raw
from benchmarks.raw_asks import raw_asks
from swell.bench import parts
from swell.bench.result import Result, quantiles
from swell.bench.system import System, own
from swell.lifecycle import loop_factory, tune_gc

PAD = "x" * 85
FLOOR = Path(__file__).with_name("floor.json")
#: Messages of a throughput turn.
MESSAGES, QUICK = 1_000_000, 200_000
RATES = (10_000, 100_000)
#: Messages under way when a worker is killed.
KILL_MESSAGES = 300_000


class Failed(Exception):
    """A run lost a message."""


def fair(result: Result) -> Result:
    """The result of a run that lost nothing.

    Raises:
        Failed: it did.
    """
    if result.failed:
        raise Failed(f"{result.part}: {'; '.join(result.delivery.problems)}")
    return result


async def pair(system: System, messages: int) -> dict[str, float]:
    """One turn each of the raw path, of Swell with handlers that do nothing, and with typed bodies that are checked."""
    limit, _ = await raw(system.url, messages, PAD)
    usual, _ = await raw(system.url, messages, PAD, "redis-py")
    nothing = fair(await parts.throughput(system, messages=messages, name="nothing"))
    typed = fair(await parts.throughput(system, messages=messages))
    return {
        "raw_per_s": limit,
        "redis_py_per_s": usual,
        "redis_py_ratio": nothing.figures["handled_per_s"] / usual,
        "nothing_per_s": nothing.figures["handled_per_s"],
        "typed_per_s": typed.figures["handled_per_s"],
        "nothing_ratio": nothing.figures["handled_per_s"] / limit,
        "typed_ratio": typed.figures["handled_per_s"] / limit,
    }


async def at_rate(system: System, rate: int, seconds: float) -> dict[str, float]:
    """P95 at a rate, of the raw path and of Swell."""
    _, latency = await raw(system.url, int(rate * seconds), PAD, rate=rate)
    ours = fair(await parts.latency(system, rates=[rate], seconds=seconds))
    row = ours.rows[0]
    limit = quantiles(latency.sparse())
    return {
        "raw_p95_ms": limit.p95_ms,
        "p95_ms": row["p95_ms"],
        "p99_ms": row["p99_ms"],
        "achieved_per_s": row["achieved_per_s"],
        "ratio": row["p95_ms"] / max(limit.p95_ms, 0.001),
    }


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


async def measure(rounds: int, aof: bool, quick: bool) -> dict[str, Any]:
    """Everything in the design's table that one system can tell."""
    found: dict[str, Any] = {"aof": aof, "rounds": rounds}
    seconds = 1.0 if quick else 5.0
    async with own(1, aof=aof) as system:
        found["throughput"] = medians([await pair(system, QUICK if quick else MESSAGES) for _ in range(rounds)])
        for rate in RATES:
            found[f"at_{rate}"] = medians([await at_rate(system, rate, seconds) for _ in range(rounds)])
        found["ask"] = medians([await asks(system, seconds) for _ in range(rounds)])
    async with own(1, aof=aof) as system:
        agents = 1000 if quick else 10_000
        found["spawn"] = medians([fair(await parts.spawn(system, agents=agents)).figures for _ in range(rounds)])
    async with own(1, aof=aof) as system:
        found["memory"] = fair(await parts.memory(system, agents=1000 if quick else 10_000)).figures
    found["takeover_s"] = statistics.median([await takeover(aof) for _ in range(rounds)])
    found["up_s"] = statistics.median([await up() for _ in range(rounds)])
    return found


async def asks(system: System, seconds: float) -> dict[str, float]:
    """Round trips of 100 askers, of the raw path and of Swell."""
    limit, latency = await raw_asks(system.url, seconds=seconds)
    usual, _ = await raw_asks(system.url, "redis-py", seconds=seconds)
    figures = fair(await parts.ask(system, seconds=seconds)).figures
    each = figures["round_trips_per_s"]
    raw_p95_ms = quantiles(latency.sparse()).p95_ms
    return figures | {
        "raw_per_s": limit,
        "raw_p95_ms": raw_p95_ms,
        "ratio": each / limit,
        "redis_py_per_s": usual,
        "redis_py_ratio": each / usual,
    }


async def takeover(aof: bool) -> float:
    """Seconds from the SIGKILL of one of two workers under load until all shards are owned again, lease 2 s.

    Raises:
        Failed: a message was lost, or out of order.
    """
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), aof)
        try:
            with contextlib.redirect_stdout(io.StringIO()) as said:
                taken = await kill(bench, KILL_MESSAGES)
        finally:
            bench.close()
    if taken is None:
        raise Failed(said.getvalue())
    return taken


async def up() -> float:
    """Seconds from the call of `swell up` until it says that all is ready."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "swell", "up", "--json", "--data-dir", directory, "--namespace", "bench-up"]
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdout is not None
        first = await process.stdout.readline()
        took = time.perf_counter() - began
        if first:
            process.terminate()
        await process.communicate()
    if not first:
        raise Failed("`swell up` ended before it was ready")
    return took


def table(found: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The design's table: what, bar, goal, measured."""
    through, spawned = found["throughput"], found["spawn"]
    rows = [
        (
            "messages/s, handler does nothing, over the raw path on redis.asyncio",
            "0.5",
            "0.8",
            f"{through['redis_py_ratio']:.2f} ({through['nothing_per_s']:,.0f} of {through['redis_py_per_s']:,.0f})",
        ),
        (
            "the same, over the raw path on our own connection",
            "0.5",
            "0.8",
            f"{through['nothing_ratio']:.2f} (of {through['raw_per_s']:,.0f})",
        ),
        (
            "the same, with a typed body that the handler checks",
            "0.5",
            "0.8",
            f"{through['typed_ratio']:.2f} ({through['typed_per_s']:,.0f})",
        ),
    ]
    for rate, bar, goal in ((10_000, "3 x raw, < 10 ms", "1.5 x, < 2 ms"), (100_000, "< 10 ms", "< 3 ms")):
        one = found[f"at_{rate}"]
        said = f"{one['p95_ms']:.2f} ms, {one['ratio']:.1f} x ({one['raw_p95_ms']:.2f} ms), P99 {one['p99_ms']:.2f} ms"
        if one["achieved_per_s"] < 0.98 * rate:
            said += f", reached {one['achieved_per_s']:,.0f}/s only"
        rows.append((f"P95 to handler start at {rate:,} msg/s", bar, goal, said))
    ask = found["ask"]
    said = f"{ask['round_trips_per_s']:,.0f}, P95 {ask['p95_ms']:.2f} ms; {ask['ratio']:.2f} of raw request and reply"
    said += f" ({ask['raw_per_s']:,.0f}, P95 {ask['raw_p95_ms']:.2f} ms; on redis.asyncio {ask['redis_py_per_s']:,.0f})"
    rows.append(("asks/s, 100 askers", "40,000", "100,000", said))
    rows += [
        ("spawn of one agent, P95", "10 ms", "3 ms", f"{spawned['one_p95_ms']:.2f} ms"),
        ("spawn of 100 agents", "100 ms", "30 ms", f"{spawned['hundred_median_ms']:.1f} ms"),
        (f"spawn of {spawned['agents']:,.0f} agents", "3 s", "1 s", f"{spawned['agents_ready_s']:.2f} s"),
        ("memory of an idle agent", "8 KiB", "3 KiB", f"{found['memory']['worker_kib_per_agent']:.1f} KiB"),
        ("takeover after kill -9 of a worker, lease 2 s", "4 s", "2.5 s", f"{found['takeover_s']:.2f} s, nothing lost"),
        ("`swell up` until ready", "5 s", "2 s", f"{found['up_s']:.2f} s"),
    ]
    return rows


async def guard(rounds: int) -> int:
    """Report the ratio; fail only if it is below the floor."""
    async with own(1, aof=False) as system:
        turns = [await pair(system, QUICK) for _ in range(rounds)]
    floor = json.loads(FLOOR.read_text())["nothing_ratio"]
    found = medians(turns)
    print(f"ratio to the raw path: {found['nothing_ratio']:.2f} (floor {floor}); typed {found['typed_ratio']:.2f}")
    print("turns: " + ", ".join(f"{turn['nothing_ratio']:.2f}" for turn in turns))
    return 0 if found["nothing_ratio"] >= floor else 1


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ratio", description=__doc__)
    parser.add_argument("--aof", action="store_true", help="append-only file, everysec")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--guard", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            if options.guard:
                return runner.run(guard(max(options.rounds, 5)))
            found = runner.run(measure(options.rounds, options.aof, options.quick))
        except Failed as failed:
            print(f"FAILED: {failed}")
            return 1
    print(f"{'append-only file, everysec' if options.aof else 'nothing on disk'}; medians of {options.rounds} rounds\n")
    rows = table(found)
    print("| what | bar | goal | measured |\n| --- | --- | --- | --- |")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
