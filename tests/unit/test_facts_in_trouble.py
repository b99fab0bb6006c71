"""Shared facts while the server is away, refuses, or the client ends: on a memory broker that can be told to."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from swell.bus.facts import Arrival, FactChange, HoldAnswer, Seat, Tail, Turn
from swell.bus.memory import MemoryBroker, MemoryServer
from swell.client import Client
from swell.errors import BrokerError, BrokerRefused, BrokerUnavailable, LockHeld, LockLost
from swell.facts import Change, Watch
from swell.instruments import Recorder

PATIENCE_S = 10.0
AWAY = BrokerUnavailable("the server is away")


class Troubled(MemoryBroker):
    """A memory broker that raises `trouble`, while there is one, whatever it is asked to wait for or to keep.

    Attributes:
        met: set when somebody met it.
        followed: the shards of each read so far.
    """

    trouble: BrokerError | None = None

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server, "tests")
        self.met = asyncio.Event()
        self.followed: list[set[str]] = []

    async def _check(self) -> None:
        await asyncio.sleep(0)
        if self.trouble is not None:
            self.met.set()
            raise self.trouble

    async def fact_tail(self, shards: Sequence[str]) -> list[Tail]:
        await self._check()
        return await super().fact_tail(shards)

    async def fact_follow(
        self, changes: Mapping[str, int], turns: Mapping[str, int], block_ms: int
    ) -> tuple[list[FactChange], list[Turn]]:
        self.followed.append({*changes, *turns})
        found = await super().fact_follow(changes, turns, block_ms)
        await self._check()
        return found

    async def hold(self, shard: str, name: str, owner: str, limit: int, ttl_ms: int) -> HoldAnswer:
        await self._check()
        return await super().hold(shard, name, owner, limit, ttl_ms)

    async def hold_renew(self, seats: Sequence[tuple[Seat, int]]) -> list[bool]:
        await self._check()
        return await super().hold_renew(seats)

    async def arrive(self, shard: str, name: str, party: str, parties: int, ttl_ms: int, *, come: bool) -> Arrival:
        await self._check()
        return await super().arrive(shard, name, party, parties, ttl_ms, come=come)


@asynccontextmanager
async def process(server: MemoryServer, name: str = "p1") -> AsyncIterator[tuple[Client, Troubled]]:
    broker = Troubled(server)
    client = Client(broker, name, 1_000_000, Recorder(name))
    client.shards = 4
    async with asyncio.timeout(PATIENCE_S), client:
        yield client, broker


async def test_a_lock_that_cannot_be_renewed_in_time_is_lost_and_is_not_given_back_late() -> None:
    async with process(MemoryServer()) as (client, broker):

        async def body() -> None:
            async with client.facts.lock("x", ttl=0.3):
                broker.trouble = AWAY
                await asyncio.Event().wait()

        with pytest.raises(LockLost):
            await body()


async def test_a_wait_with_an_end_ends_while_the_server_is_away() -> None:
    async with process(MemoryServer()) as (client, broker):
        broker.trouble = AWAY
        facts = client.facts
        for wait in (0.0, 0.05):
            with pytest.raises(BrokerUnavailable):
                async with facts.lock("x", wait=wait):
                    pass
            with pytest.raises(BrokerUnavailable):
                await facts.claims.take("lock", "x", "a", ttl=10, wait=wait)
            with pytest.raises(BrokerUnavailable):
                await facts.barrier("b", 2).attend(wait)


async def test_a_wait_with_an_end_ends_when_turns_cannot_be_followed() -> None:
    async with process(MemoryServer()) as (client, broker):
        facts = client.facts
        async with facts.lock("x") as held:

            async def never(shards: Sequence[str]) -> list[Tail]:
                await asyncio.Event().wait()
                raise AssertionError

            broker.fact_tail = never  # type: ignore[method-assign]
            with pytest.raises(LockHeld, match=held.owner):
                async with facts.lock("x", wait=0.05):
                    pass
            assert (await facts.barrier("b", 2).attend(0.05)).generation is None
            assert (await facts.locks())[0].waiting == 0


async def test_a_lock_outlives_a_server_that_was_away_for_less_than_its_ttl() -> None:
    async with process(MemoryServer()) as (client, broker):
        async with client.facts.lock("x", ttl=3.0) as held:
            held.renew_at = 0.0
            client.facts._desk.keeper.keep(held)
            broker.trouble = AWAY
            await broker.met.wait()
            broker.trouble = None
            renewed = asyncio.Event()
            held.renewed = lambda began: renewed.set()  # type: ignore[method-assign]
            await renewed.wait()
        assert not held.lost.is_set()


async def test_who_waits_in_a_line_or_at_a_barrier_waits_on_while_the_server_is_away() -> None:
    async with process(MemoryServer()) as (client, broker):
        entered: list[str] = []

        async def enter() -> None:
            async with client.facts.lock("x"):
                entered.append("in")

        async with client.facts.lock("x"):
            waiting = [asyncio.create_task(enter()), asyncio.create_task(client.facts.barrier("b", 2).wait())]
            while not any(lock.waiting for lock in await client.facts.locks()):
                pass
            broker.trouble = AWAY
            await broker.fact_wake()
            await broker.met.wait()
            assert entered == []
        broker.trouble = None
        await waiting[0]
        await asyncio.gather(waiting[1], client.facts.barrier("b", 2).wait())
        assert entered == ["in"]


async def test_a_watch_goes_on_without_a_gap_after_the_server_was_away() -> None:
    server = MemoryServer()
    async with process(server) as (client, broker), process(server, "p2") as (other, _):
        watch = client.facts.watch("k", int)
        await other.facts.put("k", 0)
        assert (await anext(watch)).value == 0
        broker.trouble = AWAY
        for n in range(1, 4):
            await other.facts.put("k", n)
        await broker.met.wait()
        broker.trouble = None
        assert [(await anext(watch)).value for _ in range(3)] == [1, 2, 3]


async def test_a_server_that_refuses_to_be_followed_tells_those_who_wait() -> None:
    async with process(MemoryServer()) as (client, broker):
        broker.trouble = BrokerRefused("NOPERM")
        with pytest.raises(BrokerRefused, match="NOPERM"):
            await anext(client.facts.watch("k"))
        broker.trouble = None
        watch = client.facts.watch("k", int)
        await client.facts.put("k", 1)
        while True:
            try:
                assert (await anext(watch)).value == 1
                break
            except BrokerRefused:
                await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(anext(watch))
        broker.trouble = BrokerRefused("NOPERM again")
        await client.facts.put("k", 2)
        with pytest.raises(BrokerRefused, match="NOPERM again"):
            await waiting


async def test_a_watch_ends_with_its_client() -> None:
    async with process(MemoryServer()) as (client, _):
        await client.facts.put("k", 1)
        watch: Watch[int] = client.facts.watch("k", int)
        seen: dict[str, Change[int]] = {}

        async def look() -> None:
            async for change in watch:
                seen[change.key] = change

        looking = asyncio.create_task(look())
        while not seen:
            await asyncio.sleep(0)
    await looking
    assert [change.kind for change in seen.values()] == ["there"]
    assert [change async for change in client.facts.watch("k")] == []


async def test_what_nobody_watches_any_more_is_not_followed() -> None:
    async with process(MemoryServer()) as (client, broker):
        await client.facts.put("k", 1)
        watch = client.facts.watch(prefix="", type=int)
        await anext(watch)
        assert broker.followed[-1] == {"0", "1", "2", "3"}
        del watch
        gc.collect()
        one = client.facts.watch("k", int)
        await anext(one)
        await client.facts.put("k", 2)
        await anext(one)
        assert len(broker.followed[-1]) == 1
