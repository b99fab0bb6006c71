"""`make bench`: throughput and latency of one client and one worker, and what a SIGKILL costs.

    python -m benchmarks.load [throughput|latency|kill|ask ...] [--messages N] [--aof]

Each part starts its own server and workers, ends them, and ends with the account: sent, handled, out of order, and
the ledger. A part whose account does not balance makes the exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.agents import Account, Item
from benchmarks.limits import raw as raw_path
from swell import Client
from swell.codec import raw
from swell.embedded import find_binary
from swell.histogram import Histogram
from swell.keys import METRICS
from swell.lifecycle import loop_factory, tune_gc
from swell.wire import SPAWN, SpawnAgent

AGENTS = 100
#: With its number and its time, a body of about 100 bytes.
PAD = "x" * 85
LEASE_MS = 2000


class Bench:
    """A server, workers and a client of their own.

    Args:
        directory: for the server's data and the agents' accounts.
        aof: whether the server keeps an append-only file (everysec), as `swell up` has it.
    """

    def __init__(self, directory: Path, aof: bool) -> None:
        self.directory = directory
        self._unix = directory / "server.sock"
        self.url = f"unix://{self._unix}"
        persistence = ["--appendonly", "yes" if aof else "no", "--save", "", "--dir", str(directory)]
        self._server = subprocess.Popen(
            [find_binary(), "--port", "0", "--unixsocket", str(self._unix), *persistence],
            stdout=subprocess.DEVNULL,
        )
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self) -> None:
        """Start one more worker."""
        environ = os.environ | {
            "SWELL_REDIS": self.url,
            "SWELL_NAMESPACE": "bench",
            "SWELL_APP": "benchmarks.agents:app",
            "SWELL_PORT": "0",
            "SWELL_LEASE_MS": str(LEASE_MS),
            "SWELL_LOG_LEVEL": "error",
            "BENCHMARK_ACCOUNT": str(self.directory),
        }
        self.workers.append(subprocess.Popen([sys.executable, "-m", "swell_worker"], env=environ))

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client, once the server is there."""
        while not self._unix.exists():
            await asyncio.sleep(0.01)
        async with Client.connect(self.url, namespace="bench") as client:
            yield client

    def close(self) -> None:
        """End everything."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait()
        self._server.terminate()
        self._server.wait()


async def spawn(client: Client, type: str, count: int = AGENTS) -> list[str]:
    """Start agents as the manager does; returns their ids."""
    ids = [f"{type}/{n:04d}" for n in range(count)]
    body = SpawnAgent("bench", raw(None))
    await asyncio.gather(*(client.request(client.shard(id), id, SPAWN, body, 30) for id in ids))
    return ids


async def accounts(client: Client, ids: Sequence[str]) -> list[Account]:
    """What the agents saw; they answer behind everything that was sent before."""
    return await asyncio.gather(*(client.ask(id, "account", None, Account, timeout=120) for id in ids))


async def balanced(client: Client) -> bool:
    """Whether every shard's ledger balances with nothing left; says which do not."""
    fine = True
    for _ in range(100):  # The last answers come before the last settles are written.
        # The shard `metrics` is left out: no metrics service runs here that would settle the reports.
        ledgers = [ledger for ledger in await client.ledger() if ledger.shard != METRICS]
        if not any(ledger.depth for ledger in ledgers):
            break
        await asyncio.sleep(0.02)
    for ledger in ledgers:
        if not ledger.balanced or ledger.depth:
            print(f"  NOT BALANCED: {ledger}")
            fine = False
    total = sum(ledger.acked for ledger in ledgers)
    print(f"  ledger: {sum(ledger.sent for ledger in ledgers):,} sent, {total:,} acked, balanced: {fine}")
    return fine


async def throughput(bench: Bench, messages: int) -> bool:
    """One client, one worker, 100 agents: as fast as it goes, until the last is handled; beside the raw path."""
    async with bench.client() as client:
        limit, _ = await raw_path(bench.url, messages, PAD)
        bench.start_worker()
        ids = await spawn(client, "counter")
        began = time.perf_counter()
        await client.send_many((ids[n % AGENTS], "add", Item(n // AGENTS, 0, PAD)) for n in range(messages))
        sent = time.perf_counter()
        seen = await accounts(client, ids)
        ended = time.perf_counter()
        handled = sum(account.handled for account in seen)
        disorder = sum(account.out_of_order for account in seen)
        print(f"throughput: {messages:,} messages to {AGENTS} agents on one worker")
        rate = messages / (ended - began)
        print(f"  accepted {messages / (sent - began):,.0f} msg/s, handled {rate:,.0f} msg/s")
        print(f"  the raw path just before: {limit:,.0f} msg/s; ratio {rate / limit:.2f}")
        print(f"  sent {messages:,}, handled {handled:,}, out of order {disorder}")
        return await balanced(client) and handled == messages and not disorder


async def open_loop(client: Client, ids: Sequence[str], rate: int, seconds: float) -> int:
    """Send `rate` messages a second, each when it is due whatever became of those before; returns how many."""
    sending: set[asyncio.Task[None]] = set()
    began = time.time_ns() // 1000
    number = 0
    async with asyncio.TaskGroup() as group:
        while number < rate * seconds:
            due = number * 1_000_000 // rate
            wait_us = began + due - time.time_ns() // 1000
            if wait_us > 0:
                await asyncio.sleep(wait_us / 1e6)
            behind = time.time_ns() // 1000 - began
            while number < rate * seconds and number * 1_000_000 // rate <= behind:
                item = Item(number, began + number * 1_000_000 // rate, PAD)
                task = group.create_task(client.send(ids[number % len(ids)], "timed", item))
                sending.add(task)
                task.add_done_callback(sending.discard)
                number += 1
    return number


async def latency(bench: Bench, _: int) -> bool:
    """Due time to handler, at given rates, each message when it is due (no coordinated omission)."""
    bench.start_worker()
    fine = True
    async with bench.client() as client:
        ids = await spawn(client, "counter")
        await open_loop(client, ids, 1000, 1.0)
        await accounts(client, ids)
        print("latency, due time to handler start, one worker, open loop")
        for rate in (500, 1_000, 5_000, 10_000, 20_000):
            sent = await open_loop(client, ids, rate, 5.0)
            merged = Histogram()
            seen = await accounts(client, ids)
            for account in seen:
                merged.merge(account.buckets, 0)
            quantiles = "  ".join(f"P{q * 100:g} {merged.quantile_us(q) / 1000:.2f}" for q in (0.5, 0.95, 0.99, 0.999))
            print(f"  {rate:>7,} msg/s   {quantiles} ms   sent {sent:,}, handled {merged.count:,}")
            fine &= sent == merged.count
        return await balanced(client) and fine


async def ask(bench: Bench, _: int) -> bool:
    """Round trips: each of 100 askers asks again as soon as it is answered."""
    bench.start_worker()
    async with bench.client() as client:
        ids = await spawn(client, "counter")
        latencies = Histogram()
        seconds = 5.0
        until = time.perf_counter() + seconds

        item = Item(1, 0, PAD)

        async def asker(id: str) -> None:
            while time.perf_counter() < until:
                began = time.perf_counter_ns()
                await client.ask(id, "ping", item, int)
                latencies.record((time.perf_counter_ns() - began) // 1000)

        await asyncio.gather(*map(asker, ids))
        print(f"ask: {AGENTS} askers in one process, one worker")
        p50, p95 = (latencies.quantile_us(q) / 1000 for q in (0.5, 0.95))
        print(f"  {latencies.count / seconds:,.0f} round trips/s, P50 {p50:.2f} ms, P95 {p95:.2f} ms")
        return await balanced(client)


def read_accounts(directory: Path, id: str) -> list[list[int]]:
    """What an agent wrote down in each of its lives, the oldest first."""
    key = id.partition("/")[2]
    lives = [[int(line) for line in file.read_text().split()] for file in directory.glob(f"{key}.*")]
    return sorted(life for life in lives if life)


async def kill(bench: Bench, messages: int) -> bool:
    """A worker of two is killed (SIGKILL) while messages are handled: what was lost, what came twice, how long."""
    bench.start_worker()
    bench.start_worker()
    async with bench.client() as client:
        while len({lease.owner for lease in await client.leases() if lease.shard.isdigit()} - {""}) < 2:
            await asyncio.sleep(0.05)
        ids = await spawn(client, "notary")
        total = min(messages, 1_000_000)
        sending = asyncio.ensure_future(
            client.send_many((ids[n % AGENTS], "add", Item(n // AGENTS, 0, PAD)) for n in range(total))
        )
        while sum(len(life) for life in read_accounts(bench.directory, ids[0])) < total // AGENTS // 4:
            await asyncio.sleep(0.05)
        victim = bench.workers[0]
        victim.kill()
        killed = time.perf_counter()
        while len({lease.owner for lease in await client.leases() if lease.shard.isdigit()} - {""}) != 1:
            await asyncio.sleep(0.01)
        taken = time.perf_counter() - killed
        await sending
        await asyncio.gather(*(client.ask(id, "account", None, int, timeout=120) for id in ids))
        lost = twice = disorder = 0
        for id in ids:
            lives = read_accounts(bench.directory, id)
            seen = set().union(*lives)
            lost += total // AGENTS - len(seen)
            twice += sum(map(len, lives)) - len(seen)
            disorder += sum(b != a + 1 for life in lives for a, b in itertools.pairwise(life))
        print(f"kill -9 of one of two workers amid {total:,} messages, lease {LEASE_MS / 1000:g} s")
        print(f"  all shards owned again after {taken:.2f} s")
        print(f"  sent {total:,}, lost {lost}, handled twice {twice:,}, out of order {disorder}")
        return await balanced(client) and not lost and not disorder


PARTS: dict[str, Callable[[Bench, int], Awaitable[bool]]] = {
    "throughput": throughput,
    "latency": latency,
    "ask": ask,
    "kill": kill,
}


def main() -> int:
    """Run the parts asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which; all by default")
    parser.add_argument("--messages", type=int, default=1_000_000, help="for throughput and kill")
    parser.add_argument("--aof", action="store_true", help="append-only file, everysec")
    options = parser.parse_args()
    tune_gc()
    fine = True
    print(f"server: {'append-only file, everysec' if options.aof else 'keeps nothing on disk'}")
    for name in options.parts or PARTS:
        with tempfile.TemporaryDirectory() as directory:
            bench = Bench(Path(directory), options.aof)
            try:
                with asyncio.Runner(loop_factory=loop_factory()) as runner:
                    fine &= runner.run(PARTS[name](bench, options.messages))  # type: ignore[arg-type]
            finally:
                bench.close()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
