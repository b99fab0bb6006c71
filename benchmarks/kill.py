"""What a SIGKILL of one of two workers costs under load: what was lost, what came twice, how long until it goes on.

    python -m benchmarks.kill [--messages N] [--aof]

It starts its own server and workers, ends them, and ends with the account: sent, handled, out of order, and the ledger.
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
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.agents import Item
from swell import Client
from swell.bench.system import listens
from swell.codec import raw
from swell.embedded import find_binary
from swell.keys import METRICS
from swell.lifecycle import loop_factory, tune_gc
from swell.wire import SPAWN, SpawnAgent

_T = TypeVar("_T")
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
        await listens(self._server, self._unix)
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


def read_accounts(directory: Path, id: str) -> list[list[int]]:
    """What an agent wrote down in each of its lives, the oldest first."""
    key = id.partition("/")[2]
    lives = [[int(line) for line in file.read_text().split()] for file in sorted(directory.glob(f"{key}.*"))]
    return [life for life in lives if life]


async def kill(bench: Bench, messages: int) -> float | None:
    """A worker of two is killed (SIGKILL) while messages are handled: what was lost, what came twice, how long.

    Returns:
        seconds until all shards were owned again; None if a message was lost or out of order.
    """
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
            # The next life begins with what follows, or repeats what was not settled; it leaves nothing out.
            disorder += sum(after[0] > before[-1] + 1 for before, after in itertools.pairwise(lives))
        print(f"kill -9 of one of two workers amid {total:,} messages, lease {LEASE_MS / 1000:g} s")
        print(f"  all shards owned again after {taken:.2f} s")
        print(f"  sent {total:,}, lost {lost}, handled twice {twice:,}, out of order {disorder}")
        return taken if await balanced(client) and not lost and not disorder else None


def on_bench(measure: Callable[[Bench], Coroutine[Any, Any, _T]], aof: bool) -> _T:
    """What a measurement returns that is run on a bench of its own."""
    tune_gc()
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner(loop_factory=loop_factory()) as runner:
        bench = Bench(Path(directory), aof)
        try:
            return runner.run(measure(bench))
        finally:
            bench.close()


def main() -> int:
    """Run it; exit code 1 if a message was lost or out of order."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--aof", action="store_true", help="append-only file, everysec")
    options = parser.parse_args()
    return 1 if on_bench(lambda bench: kill(bench, options.messages), options.aof) is None else 0


if __name__ == "__main__":
    sys.exit(main())
