"""Random faults under load for as long as one likes: `python -m tests.chaos.soak --minutes 20 --seed 1`.

Every few seconds one of: kill -9 or SIGSTOP of a worker, kill -9 of the leading manager, of the metrics service, of the
server (it keeps its data: AOF), the network of one worker cut, silent or slow, all connections reset. In the end: the
ledger, the agents' own account, pending entries, keys. Writes out/soak.jsonl (a line a second) and out/soak.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from swell.bench.plot import Panel, plot
from swell.errors import BrokerError
from tests.chaos.account import Verdict, median_and_most
from tests.chaos.cable import Cable
from tests.chaos.report import ROWS, Rows
from tests.chaos.server import KeptServer
from tests.chaos.system import LEASE_MS, Load, System, resident_mib
from tests.integration.services import Service

OUT = Path(__file__).parents[2] / "out"
AGENTS = 100
WORKERS = 2
#: Pauses between two faults, seconds.
LEAST_PAUSE_S, MOST_PAUSE_S = 3.0, 9.0
#: Agents do not answer again for so long after a fault: it counts as not recovered, and the run fails.
MOST_RECOVERY_S = 60.0


class Soak:
    """One run.

    Args:
        system: what is tested.
        server: its server.
        rng: what faults are drawn from.
    """

    def __init__(self, system: System, server: KeptServer, rng: random.Random) -> None:
        self.system = system
        self.server = server
        self.began = time.monotonic()
        self.faults: list[tuple[float, str]] = []
        self.recovery_s: list[float] = []
        self._rng = rng
        self._cables: dict[int, Cable] = {}
        self._exits = contextlib.AsyncExitStack()

    async def begin(self) -> list[str]:
        """Start everything; returns the agents."""
        for _ in range(WORKERS):
            await self.worker()
        for role in ("manager", "manager", "metrics"):
            self.system.start(role)
        await self.system.all_ready(*self.system.services)
        return await self.system.spawn(AGENTS)

    async def worker(self) -> Service:
        """Start a worker whose network is in our hands."""
        cable = await self._exits.enter_async_context(Cable(self.server.url))
        service = self.system.start("worker", cable.url)
        self._cables[service.pid] = cable
        return service

    async def close(self) -> None:
        """Take the cables away."""
        await self._exits.aclose()

    # Faults.

    async def kill_worker(self) -> None:
        await self.system.kill(self._any("worker"))
        await self.worker()

    async def freeze_worker(self) -> None:
        victim = self._any("worker")
        self.system.freeze(victim)
        await asyncio.sleep(self._rng.uniform(0.5, 3.0) * LEASE_MS / 1000)
        self.system.thaw(victim)

    async def kill_manager(self) -> None:
        leading = await self.system.owner("control")
        if leading is not None:
            await self.system.kill(leading)
            self.system.start("manager")

    async def kill_metrics(self) -> None:
        await self.system.kill(self._any("metrics"))
        self.system.start("metrics")

    async def stop_worker(self) -> None:
        assert await self._any("worker").stop() == 0
        await self.worker()

    async def kill_server(self) -> None:
        await self.server.kill()
        await asyncio.sleep(self._rng.uniform(0.0, 2.0))
        await self.server.start()

    async def cut_network(self) -> None:
        cable = self._cables[self._any("worker").pid]
        cable.cut()
        await asyncio.sleep(self._rng.uniform(0.1, 3.0))
        cable.mend()

    async def swallow_network(self) -> None:
        cable = self._cables[self._any("worker").pid]
        cable.swallow()
        await asyncio.sleep(self._rng.uniform(0.1, 3.0))
        cable.mend()

    async def slow_network(self) -> None:
        cable = self._cables[self._any("worker").pid]
        cable.delay_s = 0.2
        await asyncio.sleep(self._rng.uniform(0.5, 3.0))
        cable.mend()

    async def reset_connections(self) -> None:
        async with Redis.from_url(self.server.url, protocol=2) as redis:
            await redis.client_kill_filter(_type="normal", skipme=True)

    def _any(self, role: str) -> Service:
        return self._rng.choice(self.system.running(role))

    async def break_things(self, until: float) -> None:
        """One fault after another, until a monotonic time; each begins when all are ready after the last."""
        kinds: list[Callable[[], Awaitable[None]]] = [
            self.kill_worker,
            self.freeze_worker,
            self.kill_manager,
            self.kill_metrics,
            self.stop_worker,
            self.kill_server,
            self.cut_network,
            self.swallow_network,
            self.slow_network,
            self.reset_connections,
        ]
        deck: list[Callable[[], Awaitable[None]]] = []
        while time.monotonic() < until:
            # Each kind once before any comes again: a short run has them all too.
            deck = deck or self._rng.sample(kinds, len(kinds))
            await asyncio.sleep(self._rng.uniform(LEAST_PAUSE_S, MOST_PAUSE_S))
            fault = deck.pop()
            name = fault.__name__.replace("_", " ")
            self.faults.append((time.monotonic() - self.began, name))
            print(f"{self.faults[-1][0]:7.1f} s  {name}", flush=True)
            await fault()
            mended = time.monotonic()
            async with asyncio.timeout(MOST_RECOVERY_S):
                for role in ("worker", "manager", "metrics"):
                    await self.system.all_ready(*self.system.running(role))
            self.recovery_s.append(time.monotonic() - mended)

    # Samples.

    async def sample(self, stop: asyncio.Event, path: Path) -> list[dict[str, Any]]:
        """Look at everything once a second; a look that the server is away for has fewer fields."""
        samples: list[dict[str, Any]] = []
        with path.open("wb") as file:
            while not stop.is_set():
                one: dict[str, Any] = {"s": round(time.monotonic() - self.began, 1), "rss_mib": self._memory()}
                try:
                    async with asyncio.timeout(2.0):
                        one |= await self._looked()
                except (BrokerError, OSError, RedisError, TimeoutError, AssertionError):
                    pass  # The server or the metrics service is away: part of the test.
                samples.append(one)
                file.write(msgspec.json.encode(one) + b"\n")
                file.flush()
                await asyncio.sleep(1.0)
        return samples

    def _memory(self) -> dict[str, float]:
        found = {"server": resident_mib(self.server.process.pid), "senders": resident_mib(os.getpid())}
        for role in ("worker", "manager", "metrics"):
            for service in self.system.running(role):
                found[f"{role} {service.pid}"] = resident_mib(service.pid)
        return {name: round(mib, 1) for name, mib in found.items()}

    async def _looked(self) -> dict[str, Any]:
        looked: dict[str, Any] = {"sent": self.system.sent.acknowledged, "depth": await self.system.depth()}
        for service in self.system.running("metrics"):
            status, summary = await service.get(await service.url() + "/v1/summary")
            if status == 200:
                overall = summary["overall"]
                looked |= {"handled": overall["handled"], "rate_10s": overall["rate_10s"]}
                looked["p95_ms"] = overall["start"]["p95_ms"]
        async with Redis.from_url(self.server.url, protocol=2) as redis:
            looked["server_used_mib"] = round((await redis.info("memory"))["used_memory"] / (1 << 20), 1)
        return looked


def draw(samples: list[dict[str, Any]], faults: list[tuple[float, str]], path: Path) -> None:
    """The plot of a run."""

    def line(name: str) -> list[tuple[float, float]]:
        return [(one["s"], one[name]) for one in samples if name in one]

    names = sorted({name for one in samples for name in one["rss_mib"]})
    memory = {name: [(one["s"], one["rss_mib"][name]) for one in samples if name in one["rss_mib"]] for name in names}
    services = {name: points for name, points in memory.items() if name not in ("server", "senders")}
    panels = [
        Panel("resident memory of the services, MiB (a process that was killed ends its line)", services),
        Panel("memory of the server, MiB", {"resident": memory["server"], "used": line("server_used_mib")}),
        Panel("unsettled messages", {"depth": line("depth")}),
        Panel("messages handled a second, over 10 s", {"rate": line("rate_10s")}),
        Panel("send to start of the handler, P95 of all so far, ms", {"p95": line("p95_ms")}),
    ]
    plot(panels, faults, path)


async def run(minutes: float, seed: int, rate: int, directory: Path) -> Verdict:
    """Run, and return what the accounts say; raises if anything was lost or left."""
    rng = random.Random(seed)
    server = KeptServer(directory)
    await server.start()
    accounts = directory / "accounts"
    accounts.mkdir()
    OUT.mkdir(exist_ok=True)
    try:
        async with System(server.url, "soak", accounts) as system:
            soak = Soak(system, server, rng)
            try:
                agents = await soak.begin()
                stop = asyncio.Event()
                async with asyncio.TaskGroup() as group:
                    sampling = group.create_task(soak.sample(stop, OUT / "soak.jsonl"))
                    async with system.load(agents, Load(rate=rate, senders=2)) as load:
                        await soak.break_things(time.monotonic() + minutes * 60)
                    await system.drained()
                    stop.set()
                draw(sampling.result(), soak.faults, OUT / "soak.svg")
                verdict = await system.settled()
                print(f"{verdict}\n{len(soak.faults)} faults, load for {load.seconds:.0f} s, errors {load.errors[:3]}")
                print("ready again after each fault, s (median, most):", *median_and_most(soak.recovery_s))
                Rows(ROWS, seed, long=minutes >= 5).add(
                    "0 soak: random faults",
                    verdict,
                    len(soak.faults),
                    load.seconds,
                    soak.recovery_s,
                    send_errors=len(load.errors),
                )
                return verdict
            finally:
                await soak.close()
    finally:
        await server.kill()


def main() -> int:
    """Read the arguments and run; the exit code says whether all promises were kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--rate", type=int, default=5000, help="messages a second")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        asyncio.run(run(options.minutes, options.seed, options.rate, directory))
    except BaseException:
        print(f"seed {options.seed}; accounts and logs are left in {directory}", flush=True)
        raise
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
