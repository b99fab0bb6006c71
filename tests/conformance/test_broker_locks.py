"""Locks, semaphores, leaders and barriers: order, tokens, deaths, losses; the same on every server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from swell.client import Client
from swell.errors import BarrierBroken, InUse, LockLost, WrongBody
from swell.keys import shard_of
from tests.conformance.backends import LONG_MS, SHORT_MS, Backend, MemoryBackend, RedisBackend
from tests.conformance.facts_world import SHARDS, in_line, process, soon, until_done


def place(name: str) -> str:
    """The shard of a lock or barrier."""
    return str(shard_of(name, SHARDS))


async def hold_in_turn(client: Client, name: str, log: list[tuple[str, int]], who: str) -> None:
    # Nobody asks again before a third of this is over: whoever comes in was told, or knew when a seat would lapse.
    async with client.facts.lock(name, ttl=3600) as held:
        log.append((who, held.token))


async def test_a_lock_lets_one_in_at_a_time_in_the_order_of_coming_under_growing_tokens(backend: Backend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        log: list[tuple[str, int]] = []
        waiting = []
        async with one.facts.lock("deploy") as held:
            for n, client in enumerate((one, other, one, other, one)):
                waiting.append(asyncio.create_task(hold_in_turn(client, "deploy", log, f"w{n}")))
                await in_line(one.broker, place("lock/deploy"), "lock/deploy", n + 1)
            assert log == []
        await soon(asyncio.gather(*waiting))
        assert [who for who, _ in log] == ["w0", "w1", "w2", "w3", "w4"]
        tokens = [held.token, *(token for _, token in log)]
        assert tokens == sorted(set(tokens))


async def test_tokens_grow_when_a_lock_that_was_forgotten_is_taken_again(backend: Backend) -> None:
    async with process(backend) as client:
        async with client.facts.lock("x") as first:
            pass
        if isinstance(backend, RedisBackend):
            assert [key async for key in backend._client.scan_iter("*:facts:held:*")] == []
            await backend._client.flushdb()
        async with client.facts.lock("x") as second:
            assert second.token > first.token


async def test_a_dead_holders_lock_is_free_after_its_ttl(backend: Backend) -> None:
    async with process(backend) as client:
        answer = await client.broker.hold(place("lock/x"), "lock/x", "dead", 1, SHORT_MS)
        assert answer.status == "held"
        log: list[tuple[str, int]] = []
        await until_done(backend, asyncio.create_task(hold_in_turn(client, "x", log, "next")))
        assert log[0][1] > answer.token


async def test_those_who_died_in_the_line_are_passed_over(backend: Backend) -> None:
    async with process(backend) as client:
        shard = place("lock/x")
        async with client.facts.lock("x"):
            assert (await client.broker.hold(shard, "lock/x", "dead", 1, SHORT_MS)).status == "waiting"
            log: list[tuple[str, int]] = []
            waiting = asyncio.create_task(hold_in_turn(client, "x", log, "living"))
            await in_line(client.broker, shard, "lock/x", 2)
            await client.facts.put("clock", 1, ttl=2 * SHORT_MS / 1000)

            async def later() -> bool:
                return await client.facts.get("clock") is None

            await backend.until(later)
        await soon(waiting)
        assert [who for who, _ in log] == ["living"]


async def test_who_stops_waiting_leaves_the_line(backend: Backend) -> None:
    async with process(backend) as client:
        shard = place("lock/x")
        async with client.facts.lock("x"):
            log: list[tuple[str, int]] = []
            waiting = [asyncio.create_task(hold_in_turn(client, "x", log, str(n))) for n in range(2)]
            await in_line(client.broker, shard, "lock/x", 2)
            waiting[0].cancel()
            await asyncio.wait(waiting[:1])
            await in_line(client.broker, shard, "lock/x", 1)
        await soon(waiting[1])
        assert len(log) == 1
        assert await client.facts.locks() == []


async def test_a_lock_is_renewed_for_as_long_as_its_body_runs(backend: Backend) -> None:
    async with process(backend) as client, client.facts.lock("x", ttl=0.3):
        renewals = asyncio.Event()
        count = 0
        renew = client.broker.hold_renew

        async def counting(seats: Any) -> list[bool]:
            nonlocal count
            answer = await renew(seats)
            count += 1
            if count == 4:
                renewals.set()
            return answer

        client.broker.hold_renew = counting  # type: ignore[method-assign]
        await soon(renewals.wait())
        (view,) = await client.facts.locks()
        assert view.name == "x"


async def test_a_lost_lock_cancels_its_body_and_says_so(backend: Backend) -> None:
    async with process(backend) as client:
        seen: list[str] = []

        async def body() -> None:
            async with client.facts.lock("x", ttl=0.2) as held:
                await client.broker.hold_leave(held.seat)
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    seen.append(f"cancelled, lost is set: {held.lost.is_set()}")
                    raise

        with pytest.raises(LockLost, match="'x' could not be renewed in time"):
            await soon(body())
        assert seen == ["cancelled, lost is set: True"]
        # The task that was cancelled can go on.
        await asyncio.sleep(0)
        async with client.facts.lock("x"):
            pass


async def test_a_body_that_ends_by_itself_when_its_lock_is_lost_hears_of_it(backend: Backend) -> None:
    async with process(backend) as client:

        async def body(error: Exception | None) -> None:
            async with client.facts.lock("x", ttl=0.2) as held:
                await client.broker.hold_leave(held.seat)
                try:
                    await held.lost.wait()
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    if error is not None:
                        raise error from None

        with pytest.raises(LockLost):
            await soon(body(None))
        with pytest.raises(ValueError, match="mine"):
            await soon(body(ValueError("mine")))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_a_semaphore_lets_so_many_in_and_is_refused_with_another_limit(backend: Backend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        inside = most = 0
        full = asyncio.Event()

        async def work(client: Client) -> None:
            nonlocal inside, most
            async with client.facts.semaphore("s", 3):
                inside += 1
                most = max(most, inside)
                if inside == 3:
                    full.set()
                await full.wait()
                await client.broker.ping()
                inside -= 1

        async with one.facts.semaphore("t", 2) as held, other.facts.semaphore("t", 2) as second:
            assert held.token != second.token
            with pytest.raises(InUse, match="semaphore 't' is used with limit 2 by others") as refused:
                async with one.facts.semaphore("t", 3):
                    pass
            assert refused.value.number == 2
        await soon(asyncio.gather(*(work(client) for client in (one, other) * 5)))
        assert most == 3
        async with one.facts.semaphore("t", 3):
            pass


async def test_a_leader_leads_until_its_term_ends_then_the_next_one(backend: Backend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        terms: list[int] = []

        async def campaign(client: Client) -> None:
            async with client.facts.leader("scheduler") as term:
                terms.append(term.token)

        async with one.facts.lock("scheduler"), one.facts.leader("scheduler") as first:
            second = asyncio.create_task(campaign(other))
            await in_line(one.broker, place("leader/scheduler"), "leader/scheduler", 1)
            assert terms == []
        await soon(second)
        assert terms[0] > first.token


async def test_what_is_held_is_listed_with_its_holders(backend: Backend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        shard = place("lock/a")
        async with one.facts.lock("a") as held, other.facts.named("reviewer/1").semaphore("b", 2) as seat:
            waiting = asyncio.create_task(hold_in_turn(other, "a", [], "w"))
            await in_line(one.broker, shard, "lock/a", 1)
            found = {view.place: view for view in await one.facts.locks()}
            assert list(found) == ["lock/a", "semaphore/b"]
            a, b = found["lock/a"], found["semaphore/b"]
            assert (a.limit, a.waiting, b.limit, b.waiting) == (1, 1, 2, 0)
            (holder,) = a.holders
            assert (holder.owner, holder.token) == (held.owner, held.token)
            assert holder.owner.startswith("p1#")
            assert 0 < holder.left_s <= 10
            assert 0 <= holder.held_s < LONG_MS
            assert b.holders[0].owner == seat.owner
            assert seat.owner.startswith("reviewer/1@p2#")
            assert [view.place for view in await one.facts.locks(limit=1)] == ["lock/a"]
            assert [view.place for view in await one.facts.locks(after="lock/a")] == ["semaphore/b"]
        await soon(waiting)
        assert await one.facts.locks() == []


async def test_a_silent_holder_is_gone_after_a_ttl_when_the_clock_was_set_back(backend: Backend) -> None:
    async with process(backend) as client:
        await client.broker.hold(place("lock/x"), "lock/x", "dead", 1, SHORT_MS)
        await backend.set_back(3_600_000)
        await until_done(backend, asyncio.create_task(hold_in_turn(client, "x", [], "next")))


async def test_a_barrier_opens_when_all_are_there_and_is_there_again_for_the_next_generation(backend: Backend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:

        async def party(client: Client) -> list[int]:
            barrier = client.facts.barrier("loaded", 4, ttl=3600)
            return [await barrier.wait() for _ in range(3)]

        generations = await soon(asyncio.gather(*(party(client) for client in (one, one, other, other))))
        assert generations[0] == sorted(set(generations[0]))
        assert all(found == generations[0] for found in generations)


async def test_a_barrier_refuses_another_number_and_lets_go_who_stops_waiting(backend: Backend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        waiting = asyncio.create_task(one.facts.barrier("b", 2).wait())
        await arrived(other, "b", 1)
        with pytest.raises(InUse, match="barrier 'b' is used with number of parties 2 by others"):
            await other.facts.barrier("b", 3).wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        await arrived(other, "b", 0)
        both = [client.facts.barrier("b", 2).wait() for client in (one, other)]
        first, second = await soon(asyncio.gather(*both))
        assert first == second


async def arrived(client: Client, name: str, count: int) -> None:
    """Return when so many wait at a barrier of two."""
    while (await client.broker.arrive(place(name), name, "looker", 2, 0, come=False)).number != count:
        pass


async def test_a_party_that_passed_learns_so_however_late_it_asks(backend: Backend) -> None:
    async with process(backend) as client:
        broker, shard = client.broker, place("b")
        assert (await broker.arrive(shard, "b", "late", 2, LONG_MS, come=True)).status == "waiting"
        generation = await soon(client.facts.barrier("b", 2).wait())
        next_ones = [client.facts.barrier("b", 2).wait() for _ in range(2)]
        assert (await soon(asyncio.gather(*next_ones)))[0] > generation
        late = await broker.arrive(shard, "b", "late", 2, LONG_MS, come=False)
        assert (late.status, late.number) == ("passed", generation)


async def test_a_barrier_does_not_count_who_was_silent_for_too_long(backend: Backend) -> None:
    async with process(backend) as client:
        broker, shard = client.broker, place("b")
        await broker.arrive(shard, "b", "silent", 2, SHORT_MS, come=True)

        async def nobody() -> bool:
            return (await broker.arrive(shard, "b", "looker", 2, 0, come=False)).number == 0

        await backend.until(nobody)
        waiting = asyncio.create_task(client.facts.barrier("b", 2).wait())
        await arrived(client, "b", 1)
        assert (await broker.arrive(shard, "b", "silent", 2, SHORT_MS, come=False)).status == "forgotten"
        assert not waiting.done()
        await broker.arrive(shard, "b", "instead", 2, LONG_MS, come=True)
        await soon(waiting)


async def test_a_flush_breaks_a_barrier_and_frees_a_lock(backend: Backend) -> None:
    if not isinstance(backend, RedisBackend):
        pytest.skip("memory is not flushed")
    async with process(backend) as client:
        waiting = asyncio.create_task(client.facts.barrier("b", 2, ttl=0.3).wait())
        await arrived(client, "b", 1)

        async def lose() -> None:
            async with client.facts.lock("x", ttl=0.3):
                await backend._client.flushdb()
                await asyncio.Event().wait()

        with pytest.raises(LockLost):
            await soon(lose())
        with pytest.raises(BarrierBroken, match="'b' no longer counts this party"):
            await soon(waiting)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda facts: facts.lock(""), "name"),
        (lambda facts: facts.lock("x", ttl=0.01), "ttl"),
        (lambda facts: facts.lock("x", ttl=True), "ttl"),
        (lambda facts: facts.semaphore("x", 0), "limit"),
        (lambda facts: facts.leader("x", ttl=4000), "ttl"),
        (lambda facts: facts.barrier("x", 1.5), "parties"),
        (lambda facts: facts.barrier("\n", 2), "name"),
        (lambda facts: facts.lock("$workers"), "name"),
        (lambda facts: facts.semaphore("$x", 2), "name"),
        (lambda facts: facts.leader("$x"), "name"),
        (lambda facts: facts.barrier("$x", 2), "name"),
    ],
)
async def test_what_cannot_be_held_is_refused_with_the_argument_named(make: Any, field: str) -> None:
    async with process(MemoryBackend("x")) as client:
        with pytest.raises(WrongBody) as refused:
            make(client.facts)
        assert refused.value.detail["field"] == field
