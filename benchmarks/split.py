"""Where the processor time of a message goes: client, worker and server, and each command of the server.

    python -m benchmarks.split [--messages N] [--rounds N]

Processor time (user and system, all threads) of each process over throughput runs, in microseconds a message; and the
server's own account of each command (INFO commandstats): calls, and microseconds of a call and of a message.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
from pathlib import Path

from benchmarks.ratio import Failed, fair
from swell.bench import parts
from swell.bench.system import System, own
from swell.bus.link import Link
from swell.lifecycle import loop_factory, tune_gc

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def turn(system: System, messages: int) -> dict[str, float]:
    """One throughput run: microseconds of processor time a message, by process."""
    workers = [worker.pid for worker in await system.client.workers()]
    pids = {"client": os.getpid(), "worker": workers[0], "server": system.server_pid}
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    result = fair(await parts.throughput(system, messages=messages))
    used = {name: (cpu_s(pid) - before[name]) * 1e6 / messages for name, pid in pids.items()}
    return used | {"wall": 1e6 / result.figures["handled_per_s"]}


async def commands(link: Link, messages: int) -> list[tuple[str, int, float, float]]:
    """What the server says of each command since it was last asked to forget: name, calls, us a call, us a message."""
    text = (await link.call("INFO", "commandstats")).decode()
    rows = []
    for line in text.splitlines():
        name, _, rest = line.removeprefix("cmdstat_").partition(":")
        if rest:
            stats = dict(pair.split("=") for pair in rest.split(","))
            calls, each = int(stats["calls"]), float(stats["usec_per_call"])
            rows.append((name, calls, each, float(stats["usec"]) / messages))
    return sorted(rows, key=lambda row: -row[3])


async def measure(messages: int, rounds: int) -> None:
    """Print the tables."""
    async with own(1, aof=False) as system:
        await turn(system, messages // 10)
        link = Link(system.url, "split")
        await link.call("CONFIG", "RESETSTAT")
        turns = [await turn(system, messages) for _ in range(rounds)]
        rows = await commands(link, messages * rounds)
        await link.close()
    print("| process | us a message |\n| --- | ---: |")
    for name in turns[0]:
        print(f"| {name} | {statistics.median(one[name] for one in turns):.2f} |")
    print("\n| command | calls | us a call | us a message |\n| --- | ---: | ---: | ---: |")
    for name, calls, each, share in rows:
        if share >= 0.001:
            print(f"| {name} | {calls:,} | {each:.1f} | {share:.3f} |")


def main() -> int:
    """Run it; exit code 1 if a message was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.split", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    tune_gc()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(measure(options.messages, options.rounds))
        except Failed as failed:
            print(f"FAILED: {failed}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
