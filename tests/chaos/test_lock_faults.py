"""Processes that hold locks, wait for them or lead are killed; the server that keeps them is killed and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swell import Client
from swell.errors import BarrierBroken, BrokerUnavailable, LockLost
from tests.chaos.server import KeptServer
from tests.conftest import RealServer

PATIENCE_S = 30.0
TTL_S = 1.0

#: Holds a lock (or waits for it) and says so, then does nothing for ever.
HOLDER = f"""
import asyncio, sys
from swell import Client

async def main():
    async with Client.connect(sys.argv[1], namespace=sys.argv[2]) as client:
        print("began", flush=True)
        async with client.facts.lock("x", ttl={TTL_S}) as held:
            print(held.token, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def holder(url: str, namespace: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that asks for the lock."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, url, namespace, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert await said(process) == "began"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        return (await process.stdout.readline()).decode().strip()


async def waiting(client: Client, count: int) -> None:
    """Return when so many wait for the lock."""
    async with asyncio.timeout(PATIENCE_S):
        while sum(lock.waiting for lock in await client.facts.locks()) != count:
            await asyncio.sleep(0.01)


async def token_of(client: Client) -> int:
    """Hold the lock for a moment; returns its token."""
    async with asyncio.timeout(PATIENCE_S), client.facts.lock("x", ttl=TTL_S) as held:
        return held.token


async def test_the_lock_of_a_killed_holder_goes_to_the_next_living_one_in_line(
    valkey: RealServer, tmp_path: Path
) -> None:
    namespace = f"locks-{tmp_path.name[-8:]}"
    async with Client.connect(valkey.url, namespace=namespace) as client:
        async with holder(valkey.url, namespace) as first, holder(valkey.url, namespace) as second:
            tokens = [int(await said(first))]
            await waiting(client, 1)
            last = asyncio.create_task(token_of(client))
            await waiting(client, 2)
            second.send_signal(signal.SIGKILL)  # It dies in the line.
            first.send_signal(signal.SIGKILL)  # And the holder, without a word.
            tokens.append(await last)
        assert tokens == sorted(set(tokens))
        assert await client.facts.locks() == []
        await client.broker._link("query").call("FLUSHDB")  # type: ignore[attr-defined]


async def test_a_frozen_holder_is_fenced_off_when_it_wakes(valkey: RealServer, tmp_path: Path) -> None:
    namespace = f"locks-{tmp_path.name[-8:]}"
    async with Client.connect(valkey.url, namespace=namespace) as client:
        async with holder(valkey.url, namespace) as first:
            stale = int(await said(first))
            first.send_signal(signal.SIGSTOP)
            assert await token_of(client) > stale
            first.send_signal(signal.SIGCONT)
            # Its body is cancelled and LockLost ends it.
            async with asyncio.timeout(PATIENCE_S):
                assert await first.wait() == 1
        await client.broker._link("query").call("FLUSHDB")  # type: ignore[attr-defined]


async def test_facts_and_locks_survive_a_killed_server_that_comes_back(tmp_path: Path) -> None:
    async with KeptServer(tmp_path, appendfsync="always") as server, Client.connect(server.url) as client:
        facts = client.facts
        watch = facts.watch(prefix="k/", type=int)
        versions = [await facts.put(f"k/{n}", n) for n in range(20)]
        assert {change.value for change in [await anext(watch) for _ in range(20)]} == set(range(20))
        party = asyncio.create_task(facts.barrier("b", 2, ttl=60).wait())
        async with facts.lock("x", ttl=60) as held:
            other = asyncio.create_task(token_of(client))
            await waiting(client, 1)
            await server.kill()
            await server.start()
            # Held all the time: what waits, waits on, and the watch goes on without a gap.
            after = await retried(client, held.token)
            change = await asyncio.wait_for(anext(watch), PATIENCE_S)  # type: ignore[arg-type]
            assert (change.kind, change.key, change.version) == ("put", "k/after", after)
            assert after > max(versions)
            assert not held.lost.is_set()
            assert not other.done()
        assert await other > held.token
        with contextlib.suppress(BarrierBroken):
            async with asyncio.timeout(PATIENCE_S):
                assert await facts.barrier("b", 2, ttl=60).wait() == await party


async def test_what_a_server_lost_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    async with KeptServer(tmp_path) as server, Client.connect(server.url) as client:
        watch = client.facts.watch("k", int)
        kept = await client.facts.put("k", 1)
        assert (await anext(watch)).version == kept
        lost = 0

        async def lose() -> None:
            nonlocal lost
            async with asyncio.timeout(PATIENCE_S), client.facts.lock("x", ttl=3):
                lost = await client.facts.put("k", 2)
                assert (await anext(watch)).version == lost
                await server.kill()
                # The newest writes, from that of the lock on.
                server.cut_tail(size_behind(server, b"\r\nlock/x\r\n"))
                await server.start()
                await asyncio.Event().wait()

        with pytest.raises(LockLost):
            await lose()
        changes = [await asyncio.wait_for(anext(watch), PATIENCE_S) for _ in range(2)]  # type: ignore[arg-type]
        assert [(change.kind, change.version) for change in changes] == [("skipped", 0), ("there", kept)]
        assert await retried(client, 3) > lost
        assert await token_of(client) > lost


def size_behind(server: KeptServer, text: bytes) -> int:
    """How many bytes the append-only file has from the first place on where a text is."""
    (newest,) = (server.directory / "appendonlydir").glob("*.incr.aof")
    written = newest.read_bytes()
    return len(written) - written.index(text)


async def retried(client: Client, value: int) -> int:
    """A put, tried until the server is back."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await client.facts.put("k/after", value)
            except BrokerUnavailable:
                await asyncio.sleep(0.05)
