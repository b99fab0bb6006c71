"""A system to measure on: one of our own that ends with the run, or the user's."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from swell.bench.agents import TYPE
from swell.client import Client
from swell.config import Settings
from swell.embedded import find_binary
from swell.errors import BrokerUnavailable, ConfigError
from swell.lifecycle import tune_gc

NAMESPACE = "bench"
START_S = 30.0


@dataclass(slots=True)
class System:
    """What is measured.

    Attributes:
        client: a client of it.
        url: its server.
        server_pid: the server's process, 0 if it is not on this machine.
    """

    client: Client
    url: str
    server_pid: int = 0

    async def memory_mib(self) -> dict[str, float]:
        """Resident memory of each process that is on this machine, MiB, by its name."""
        pids = {"server": self.server_pid} if self.server_pid else {}
        here = os.uname().nodename
        for role in ("manager", "worker", "metrics"):
            for info in await self.client.workers(role):
                if info.host == here:
                    pids[info.process] = info.pid
        found = {name: resident_mib(pid) for name, pid in pids.items()}
        return {name: round(mib, 1) for name, mib in found.items() if mib}


def settle_down() -> None:
    """Have the garbage collector look at what is there already no more, and rarely at the rest.

    One look at all that a command line imports takes 20 ms, in the middle of a scenario that takes 50.
    """
    gc.collect()
    gc.freeze()
    tune_gc()


def resident_mib(pid: int) -> float:
    """Resident memory of a process, MiB; 0 if it is not there or the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@asynccontextmanager
async def own(
    workers: int = 1, *, aof: bool = True, shards: int = 8, app: str = "swell.bench.agents:app"
) -> AsyncIterator[System]:
    """Start a server, a manager, a metrics service and workers on this machine; end them behind.

    Args:
        workers: how many.
        aof: whether the server keeps an append-only file (everysec).
        shards: of the namespace.
        app: what the workers run.

    Raises:
        ConfigError: there is no server to start.
        BrokerUnavailable: they did not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="swell-bench-") as name:
        directory = Path(name)
        socket = directory / "server.sock"
        server = _start_server(socket, directory, aof)
        log = (directory / "log").open("w")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")}
        environ |= {
            "SWELL_REDIS": f"unix://{socket}",
            "SWELL_NAMESPACE": NAMESPACE,
            "SWELL_SHARDS": str(shards),
            "SWELL_APP": app,
            "SWELL_PORT": "0",
            "SWELL_LEASE_MS": "2000",
            "SWELL_LOG_LEVEL": "error",
        }
        services = [_start_service(role, environ, log) for role in ("manager", "metrics", *["worker"] * workers)]
        try:
            try:
                async with asyncio.timeout(START_S):
                    await listens(server, socket)
                    async with Client.connect(f"unix://{socket}", namespace=NAMESPACE) as client:
                        await _ready(client, services, workers, directory / "log")
            except TimeoutError:
                raise BrokerUnavailable(f"the system was not ready within {START_S:g} s") from None
            async with Client.connect(f"unix://{socket}", namespace=NAMESPACE) as client:
                yield System(client, f"unix://{socket}", server.pid)
        finally:
            for service in services:
                service.terminate()
            for service in services:
                await asyncio.to_thread(service.wait)
            server.terminate()
            await asyncio.to_thread(server.wait)
            log.close()


def _start_server(socket: Path, directory: Path, aof: bool) -> subprocess.Popen[bytes]:
    keep = ["--appendonly", "yes" if aof else "no", "--save", "", "--dir", str(directory)]
    command = [find_binary(), "--port", "0", "--unixsocket", str(socket), *keep]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _start_service(role: str, environ: Mapping[str, str], log: IO[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", f"swell_{role}"], env=environ, stderr=log)


async def listens(server: subprocess.Popen[bytes], socket: Path) -> None:
    """Return when the server listens: its socket is there a moment before.

    Raises:
        BrokerUnavailable: it ended instead.
    """
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(socket)
        except OSError:
            if server.poll() is not None:
                raise BrokerUnavailable(f"the server ended with {server.returncode}") from None
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


async def _ready(client: Client, services: list[subprocess.Popen[bytes]], workers: int, log: Path) -> None:
    """Return when every shard has an owner and every worker its share."""
    while True:
        ended = next((one for one in services if one.poll() is not None), None)
        if ended is not None:
            said = await asyncio.to_thread(log.read_text)
            raise BrokerUnavailable(f"a service ended with {ended.returncode}: {said[-500:]}")
        leases = await client.leases()
        owners = {lease.owner for lease in leases if lease.shard.isdigit()}
        if all(lease.owner for lease in leases) and len(owners) == min(workers, client.shards):
            return
        await asyncio.sleep(0.02)


@asynccontextmanager
async def theirs(settings: Settings) -> AsyncIterator[System]:
    """A deployment whose workers run our agents.

    Raises:
        ConfigError: its workers do not; the text says how to start one that does.
    """
    async with Client.connect(settings=settings) as client:
        types = {type for worker in await client.workers() for type in worker.types}
        if TYPE not in types:
            having = f"the workers there run {', '.join(sorted(types))}" if types else "no worker is alive there"
            raise ConfigError(
                "redis",
                f"{having}, and the agents that are measured with are of type {TYPE!r}: start a worker with "
                "`swell worker --app swell.bench.agents:app`, in a namespace of its own",
            )
        yield System(client, settings.redis)


async def drained(client: Client, timeout_s: float = 120.0) -> None:
    """Return when nothing is left to settle in the agents' shards."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if not any(one.ledger.depth for one in await client.broker.glance(client.shard_names)):
            return
        await asyncio.sleep(0.01)
