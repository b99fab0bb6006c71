"""Faults of the server: killed, its newest data lost, out of memory, and each condition in which it refuses us."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from swell.errors import BrokerRefused
from tests.chaos.account import judge
from tests.chaos.conftest import MakeSystem
from tests.chaos.report import Rows
from tests.chaos.server import KeptServer
from tests.chaos.system import PATIENCE_S, Load, System, resident_mib

AGENTS = 100
ROLES = ("worker", "manager", "metrics")
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KeptServer]:
    directory = tmp_path / "server"
    directory.mkdir()
    async with KeptServer(directory) as server:
        yield server


async def ready(system: System) -> None:
    """Return when every service is ready, by itself."""
    await system.all_ready(*(service for role in ROLES for service in system.running(role)))


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_4_a_server_that_is_killed_has_what_was_acknowledged_when_it_comes_back(
    system: MakeSystem, server: KeptServer, rng: random.Random, rows: Rows, long: bool, fsync: str
) -> None:
    kills = 10 if long else 2
    times: list[float] = []
    await server.call("CONFIG", "SET", "appendfsync", fsync)
    async with system(server.url) as one:
        await one.begin(workers=2, metrics=1)
        agents = await one.spawn(AGENTS)
        pids = {service.pid for service in one.services}
        async with one.load(agents, Load(rate=3000)) as load:
            for _ in range(kills):
                await asyncio.sleep(rng.uniform(0.5, 1.5))
                await server.kill()
                await asyncio.sleep(rng.uniform(0.0, 0.5))
                await server.start()
                began = time.monotonic()
                await ready(one)
                times.append(time.monotonic() - began)
            await asyncio.sleep(0.5)
        verdict = await one.settled(forgetful=fsync == "everysec")
        assert not load.errors
        assert {service.pid for role in ROLES for service in one.running(role)} == pids
    rows.add(f"4 kill -9 of the server, AOF {fsync}", verdict, kills, load.seconds, times)


async def test_4_what_a_cut_file_loses_is_the_newest_and_is_told(
    system: MakeSystem, server: KeptServer, rng: random.Random, rows: Rows, long: bool
) -> None:
    cuts = 6 if long else 1
    times: list[float] = []
    lost = 0
    for _ in range(cuts):
        async with system(server.url) as one:
            await one.begin(workers=2, metrics=1)
            agents = await one.spawn(AGENTS)
            async with one.load(agents, Load(rate=3000)) as load:
                await asyncio.sleep(rng.uniform(0.5, 1.5))
                for worker in one.running("worker"):  # What nobody has handled yet is what can be lost.
                    one.freeze(worker)
                await asyncio.sleep(0.5)
                before = dict(one.sent.numbers)
                await server.kill()
                server.cut_tail(rng.randint(2_000, 50_000))
                await server.start()
                for worker in one.running("worker"):
                    one.thaw(worker)
                began = time.monotonic()
                await ready(one)
                times.append(time.monotonic() - began)
                await asyncio.sleep(0.5)
            await one.drained()
            ledgers = await one.client.ledger()
            verdict = await asyncio.to_thread(lambda: judge(one.sent, one.account()))  # noqa: B023
            assert all(ledger.balanced for ledger in ledgers)
            assert not load.errors
            assert not verdict.unexpected
            assert not verdict.reordered
            assert verdict.lost
            for pair in {(gone.sender, gone.agent) for gone in verdict.lost}:
                gone = [one.seq for one in verdict.lost if (one.sender, one.agent) == pair]
                assert gone == list(range(gone[0], gone[0] + len(gone))), "the newest, without a gap"
                assert gone[-1] < before[pair], "sent before the server died"
            assert sum(ledger.rewinds for ledger in ledgers) > 0, "the ledger tells that the server lost data"
            lost += len(verdict.lost)
    verdict.lost = []
    rows.add("4 AOF cut behind a kill -9", verdict, cuts, load.seconds, times, lost_as_told=lost)


async def test_7_a_server_out_of_memory_slows_senders_down_and_loses_nothing(
    system: MakeSystem, server: KeptServer, rows: Rows, long: bool
) -> None:
    fills = 5 if long else 1
    times: list[float] = []
    async with system(server.url) as one:
        await one.begin(workers=2, metrics=1)
        agents = await one.spawn(20, "slow")
        epochs = {lease.shard: lease.epoch for lease in await one.client.leases()}
        async with one.load(agents, Load(rate=4000)) as load:
            for _ in range(fills):
                await asyncio.sleep(0.5)
                await server.call("CONFIG", "SET", "maxmemory", int((await server.used_mib() + 0.3) * (1 << 20)))

                async def full() -> bool:
                    return "errorstat_OOM" in await server.info("errorstats")

                await one.until(full, "the server is out of memory")
                await asyncio.sleep(2.0)
                await server.call("CONFIG", "SET", "maxmemory", 0)
                await server.call("CONFIG", "RESETSTAT")
                began = time.monotonic()
                await ready(one)
                times.append(time.monotonic() - began)
        verdict = await one.settled()
        assert not load.errors
        # Leases were renewed all the while.
        assert {lease.shard: lease.epoch for lease in await one.client.leases()} == epochs
    rows.add("7 maxmemory reached", verdict, fills, load.seconds, times)


async def test_8_a_consumer_that_is_slower_than_its_senders_costs_no_memory(
    system: MakeSystem, server: KeptServer, rows: Rows, long: bool
) -> None:
    max_depth = 512
    async with system(server.url, max_depth=max_depth) as one:
        await one.begin(workers=2, metrics=1)
        agents = await one.spawn(10, "slow")
        async with one.load(agents, Load(rate=20_000, senders=4)) as load:
            await asyncio.sleep(2.0)
            pids = [service.pid for role in ROLES for service in one.running(role)]
            began = {pid: resident_mib(pid) for pid in pids}
            used = await server.used_mib()
            depths: list[int] = []
            end = time.monotonic() + (60 if long else 6)
            while time.monotonic() < end:
                depths.append(max(ledger.depth for ledger in await one.client.ledger() if ledger.shard.isdigit()))
                await asyncio.sleep(0.5)
            grown = {pid: resident_mib(pid) - began[pid] for pid in pids}
            server_grown = await server.used_mib() - used
            refused = sum(ledger.refused for ledger in await one.client.ledger())
        verdict = await one.settled()
        assert not load.errors
        assert refused > 0, "senders were held up"
        assert max_depth / 2 < max(depths) <= max_depth
        assert max(grown.values()) < 32, f"MiB by process: {grown}"
        assert server_grown < 8, f"MiB of the server: {server_grown}"
    rows.add(
        "8 a consumer slower than its senders",
        verdict,
        1,
        load.seconds,
        deepest=max(depths),
        most_growth_mib=round(max(grown.values()), 1),
        server_growth_mib=round(server_grown, 1),
    )


# Conditions in which a server refuses us: how to bring it there and back, and what `/readyz` must say.

Step = Callable[[KeptServer], Awaitable[object]]


def commands(*commands: tuple[object, ...]) -> Step:
    async def give(server: KeptServer) -> None:
        async with Redis(port=server.port, protocol=2) as redis:
            for command in commands:
                await redis.execute_command(*command)

    return give


async def nothing(server: KeptServer) -> None:
    pass


async def frozen(server: KeptServer) -> None:
    server.freeze()


async def thawed(server: KeptServer) -> None:
    server.thaw()


async def restarted(server: KeptServer) -> None:
    await server.start()


async def slow_to_load(server: KeptServer) -> None:
    """Restart with so much to load, and so slowly, that it says LOADING for some seconds."""
    await server.call("EVAL", "for i = 1, 30000 do redis.call('SET', 'filler:' .. i, string.rep('x', 1000)) end", 0)
    await server.call("BGREWRITEAOF")
    while (await server.info("persistence"))["aof_rewrite_in_progress"]:
        await asyncio.sleep(0.05)
    await server.kill()
    server.settings |= {"key-load-delay": 100, "loading-process-events-interval-bytes": 1024}
    await server.start(wait=False)


async def loaded(server: KeptServer) -> None:
    await server.answers()
    await server.call("EVAL", "for i = 1, 30000 do redis.call('DEL', 'filler:' .. i) end", 0)


KILL = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
CONDITIONS: dict[str, tuple[Step, Step, str]] = {
    "away": (KeptServer.kill, restarted, "cannot be reached"),
    "frozen": (frozen, thawed, "no answer"),
    "LOADING": (slow_to_load, loaded, "loading"),
    "READONLY": (commands(("REPLICAOF", "127.0.0.1", 1)), commands(("REPLICAOF", "NO", "ONE")), "READONLY"),
    "OOM": (
        commands(("CONFIG", "SET", "maxmemory", 1_000_000)),
        commands(("CONFIG", "SET", "maxmemory", 0)),
        "out of memory",
    ),
    "eviction": (
        commands(("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")),
        commands(("CONFIG", "SET", "maxmemory-policy", "noeviction")),
        "allkeys-lru",
    ),
    "functions flushed": (commands(("FUNCTION", "FLUSH")), nothing, ""),
}


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_readiness_follows_the_server_and_everything_resumes_without_a_restart(
    system: MakeSystem, server: KeptServer, condition: str
) -> None:
    enter, leave, said = CONDITIONS[condition]
    async with system(server.url) as one:
        await one.begin(workers=2, metrics=1)
        agents = await one.spawn(20)
        pids = {service.pid for service in one.services}
        async with one.load(agents, Load(rate=500)) as load:
            await asyncio.sleep(0.5)
            await enter(server)
            if said:
                async with asyncio.timeout(PATIENCE_S):
                    for role in ("worker", "manager", "metrics"):
                        url = await one.running(role)[0].url()
                        while True:
                            status, body = await one.running(role)[0].get(url + "/readyz")
                            if status == 503 and said in str(body):
                                break
                            await asyncio.sleep(0.1)
                        assert (await one.running(role)[0].get(url + "/livez"))[0] == 200
            await leave(server)
            await ready(one)
            await asyncio.sleep(0.5)
        await one.settled()
        assert not load.errors
        assert {service.pid for role in ROLES for service in one.running(role)} == pids


async def test_a_server_with_too_many_clients_is_waited_for(system: MakeSystem, server: KeptServer) -> None:
    async with system(server.url) as one:
        await one.begin(workers=2, metrics=1)
        agents = await one.spawn(20)
        async with one.load(agents, Load(rate=500)) as load, Redis(port=server.port, protocol=2) as redis:
            await redis.ping()  # A place of our own, before there are none.
            await redis.config_set("maxclients", 2)
            await redis.execute_command(*KILL)
            worker = one.running("worker")[0]
            url = await worker.url()

            async def refused() -> bool:
                status, body = await worker.get(url + "/readyz")
                return status == 503 and "max number of clients" in str(body)

            await one.until(refused, "readiness says why")
            await redis.config_set("maxclients", 10_000)
            await ready(one)
        await one.settled()
        assert not load.errors


async def test_a_password_that_changes_and_changes_back_is_told_and_survived(
    system: MakeSystem, server: KeptServer
) -> None:
    async with system(server.url) as one:
        await one.begin(workers=2, metrics=1)
        agents = await one.spawn(20)
        async with one.load(agents, Load(rate=500)) as load:
            await asyncio.sleep(0.5)
            await server.call("CONFIG", "SET", "requirepass", "other")
            await asyncio.sleep(1.5)
            async with Redis(port=server.port, password="other", protocol=2) as redis:
                await redis.execute_command(*KILL)
                worker = one.running("worker")[0]
                url = await worker.url()

                async def refused() -> bool:
                    status, body = await worker.get(url + "/readyz")
                    return status == 503 and "refuses us" in str(body)

                await one.until(refused, "readiness says that the server refuses us")
                await redis.config_set("requirepass", "")
            await ready(one)
            await asyncio.sleep(0.5)
        # Senders are told at once: whether a refused message was appended is known, and it was not.
        assert all(isinstance(error, BrokerRefused) for error in load.errors)
        await one.settled()


async def test_a_server_that_is_flushed_is_used_again_without_a_restart(system: MakeSystem, server: KeptServer) -> None:
    async with system(server.url) as one:
        await one.begin(workers=2, metrics=1)
        await one.spawn(20)
        await server.call("FLUSHALL")
        await ready(one)

        async def spawned() -> bool:
            plan = await one.client.spawn("notary", keys=["again"], id="again", timeout=PATIENCE_S)
            return (await plan.wait(PATIENCE_S)).ready == 1

        await one.until(spawned, "an agent after the flush")
        assert all(ledger.balanced for ledger in await one.client.ledger())
