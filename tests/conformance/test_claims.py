"""Seats of owners that are named, waits that end, and fences that are spelled out; the same on every server."""

from __future__ import annotations

import asyncio

import pytest

from swell.bus.facts import ANY_TOKEN, NO_TOKEN, Seat
from swell.client import Client
from swell.errors import InUse, LockHeld, LockLost, StaleFence, WrongBody
from swell.facts.board import Facts
from tests.conformance.backends import LONG_MS, SHORT_MS, Backend
from tests.conformance.facts_world import in_line, process, soon, until_done
from tests.conformance.test_broker_locks import place

SHARD = place("lock/x")


async def take(facts: Facts, owner: str, wait: float = 0) -> Seat:
    return await soon(facts.claims.take("lock", "x", owner, ttl=3600, wait=wait))


async def owners(facts: Facts) -> list[str]:
    return [holder.owner for lock in await facts.locks() for holder in lock.holders]


async def test_a_named_owner_is_given_the_same_seat_again_and_others_are_told_who_holds_it(backend: Backend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        seat = await take(one.facts, "ci/7")
        # Through whichever process it asks.
        assert await take(other.facts, "ci/7") == seat
        with pytest.raises(
            LockHeld, match=f"lock 'x' was not free in time: held by ci/7 under token {seat.token}"
        ) as e:
            await take(other.facts, "ci/8")
        assert [(one.owner, one.token) for one in e.value.holders] == [("ci/7", seat.token)]
        assert (await one.facts.locks())[0].waiting == 0
        assert await other.facts.claims.release("lock", "x", "ci/7") is True
        assert await other.facts.claims.release("lock", "x", "ci/7") is False
        assert (await take(one.facts, "ci/8")).token > seat.token


async def test_who_waits_for_a_named_owner_is_let_in_when_it_is_free_in_the_order_of_coming(backend: Backend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        await take(one.facts, "a")
        waiting = []
        for count, (owner, client) in enumerate((("b", one), ("c", other)), 1):
            waiting.append(asyncio.create_task(take(client.facts, owner, wait=60)))
            await in_line(one.broker, SHARD, "lock/x", count)
        await other.facts.claims.release("lock", "x", "a")
        assert (await waiting[0]).owner == "b"
        assert not waiting[1].done()
        await one.facts.claims.release("lock", "x", "b")
        assert (await waiting[1]).owner == "c"


async def test_a_wait_that_is_over_leaves_the_line(backend: Backend) -> None:
    async with process(backend) as client, client.facts.lock("x", ttl=3600) as held:
        for wait in (0.0, 0.05):
            with pytest.raises(LockHeld) as refused:
                async with client.facts.lock("x", wait=wait):
                    pass
            assert (refused.value.kind, refused.value.name) == ("lock", "x")
            assert refused.value.holders[0].owner == held.owner
            with pytest.raises(LockHeld):
                await take(client.facts, "named", wait=wait)
        (lock,) = await client.facts.locks()
        assert (lock.waiting, len(lock.holders)) == (0, 1)


async def test_a_free_lock_is_taken_without_waiting(backend: Backend) -> None:
    async with process(backend) as client:
        async with client.facts.lock("x", wait=0) as held, client.facts.leader("x", wait=0) as term:
            assert min(held.token, term.token) > 0
        async with client.facts.semaphore("x", 2, wait=0), client.facts.semaphore("x", 2, wait=0):
            with pytest.raises(
                LockHeld, match=r"^semaphore 'x' was not free in time: held by p1#\d+ under token \d+, p1#"
            ):
                async with client.facts.semaphore("x", 2, wait=0):
                    pass


async def test_one_who_waited_in_vain_does_not_free_the_seat_that_its_owner_was_given(backend: Backend) -> None:
    async with process(backend) as client:
        seat = await take(client.facts, "a")
        # Another request of the same owner leaves the line after the seat was given.
        assert await client.broker.hold_leave(seat._replace(token=NO_TOKEN)) is False
        assert await client.broker.hold_leave(seat._replace(token=seat.token - 1)) is False
        assert await owners(client.facts) == ["a"]
        assert await client.broker.hold_leave(seat) is True
        assert await client.broker.hold_leave(seat._replace(token=ANY_TOKEN)) is False


async def test_leaving_the_line_alone_leaves_it(backend: Backend) -> None:
    async with process(backend) as client:
        await take(client.facts, "a")
        await client.broker.hold(SHARD, "lock/x", "b", 1, LONG_MS)
        assert await client.broker.hold_leave(Seat(SHARD, "lock/x", "b", NO_TOKEN)) is False
        await client.facts.claims.release("lock", "x", "a")
        assert await client.facts.locks() == []


async def test_a_seat_given_while_its_owner_gave_up_is_its_own(backend: Backend) -> None:
    async with process(backend) as client:
        await take(client.facts, "a")
        leave = client.broker.hold_leave

        async def freed_first(seat: Seat) -> bool:
            client.broker.hold_leave = leave  # type: ignore[method-assign]
            await leave(Seat(SHARD, "lock/x", "a", ANY_TOKEN))
            return await leave(seat)

        client.broker.hold_leave = freed_first  # type: ignore[method-assign]
        seat = await take(client.facts, "b")
        assert await owners(client.facts) == ["b"]
        assert await take(client.facts, "b") == seat


async def test_a_seat_is_renewed_under_its_token_until_another_has_it(backend: Backend) -> None:
    async with process(backend) as client:
        claims = client.facts.claims
        seat = await claims.take("lock", "x", "a", ttl=SHORT_MS / 1000 * 2)
        assert await claims.renew("lock", "x", "a", seat.token, ttl=0.1) == seat
        next_one = await until_done(backend, asyncio.create_task(claims.take("lock", "x", "b", ttl=3600, wait=60)))
        with pytest.raises(LockLost, match=f"token {seat.token}"):
            await claims.renew("lock", "x", "a", seat.token, ttl=10)
        # Its own late answer frees nobody.
        assert await claims.release("lock", "x", "a", seat.token) is False
        assert await claims.release("lock", "x", "b", seat.token) is False
        assert await owners(client.facts) == ["b"]
        assert await claims.release("lock", "x", "b", next_one.token) is True


async def test_a_seat_may_be_renewed_for_longer_than_it_was_taken_for(backend: Backend) -> None:
    async with process(backend) as client:
        claims = client.facts.claims
        seat = await claims.take("lock", "x", "a", ttl=10)
        await claims.renew("lock", "x", "a", seat.token, ttl=1000)
        # Whoever asks next looks at what has lapsed.
        with pytest.raises(LockHeld) as refused:
            await take(client.facts, "b")
        assert 900 < refused.value.holders[0].left_s <= 1000


async def test_seats_of_a_semaphore_and_another_number_of_them(backend: Backend) -> None:
    async with process(backend) as client:
        claims = client.facts.claims
        tokens = {(await claims.take("semaphore", "s", owner, ttl=10, seats=2)).token for owner in ("a", "b")}
        assert len(tokens) == 2
        with pytest.raises(LockHeld) as refused:
            await claims.take("semaphore", "s", "c", ttl=10, seats=2)
        assert {holder.owner for holder in refused.value.holders} == {"a", "b"}
        with pytest.raises(InUse, match="limit 2"):
            await claims.take("semaphore", "s", "c", ttl=10, seats=3)
        with pytest.raises(WrongBody, match="seats: 2"):
            await claims.take("lock", "x", "c", ttl=10, seats=2)


async def test_a_fence_that_is_spelled_out_guards_as_long_as_it_is_held(backend: Backend) -> None:
    async with process(backend) as client:
        facts = client.facts
        seat = await take(facts, "a")
        text = f"lock/x:{seat.token}"
        fence = await facts.claims.fence("k", text)
        assert fence == seat
        assert await facts.put("k", 1, fence=fence) > 0
        await facts.claims.release("lock", "x", "a")
        with pytest.raises(StaleFence, match="'x' is no longer held"):
            await facts.put("k", 2, fence=fence)
        with pytest.raises(StaleFence, match="'x' is no longer held"):
            await facts.claims.fence("k", text)
        with pytest.raises(WrongBody):
            await facts.put("k", 2, fence=seat._replace(owner=""))
        for wrong in ("x:1", "lock/x", "lock/x:", "lock/x:-1", "lock/:1", "door/x:1", "lock/x:1a"):
            with pytest.raises(WrongBody, match=r"^fence: "):
                await facts.claims.fence("k", wrong)
        found = await facts.get("k", int)
        assert found is not None
        assert found.value == 1


async def test_one_name_is_found_among_many(backend: Backend) -> None:
    async with process(backend) as client:
        names = [f"x{n:03}" for n in range(250)]
        for name in names:
            await client.broker.hold(SHARD, f"lock/{name}", "a", 1, LONG_MS)
        seat = await take(client.facts, "me")
        assert await client.facts.claims.fence("k", f"lock/x:{seat.token}") == seat


async def come(client: Client, party: str, parties: int, wait: float = 0) -> tuple[int, int, int | None]:
    found = await soon(client.facts.barrier("b", parties, ttl=3600).come(party, wait))
    return found.arrived, found.present, found.generation


async def test_a_party_that_is_named_comes_again_until_all_are_there(backend: Backend) -> None:
    async with process(backend) as one, process(backend, "p2") as other:
        assert await come(one, "a", 3) == (1, 1, None)
        assert await come(other, "b", 3) == (2, 2, None)
        assert await come(other, "a", 3, wait=0.01) == (2, 2, None)
        waiting = asyncio.create_task(come(one, "a", 3, wait=60))
        _, _, generation = await come(other, "c", 3)
        assert generation is not None
        assert (await waiting)[1:] == (3, generation)
        assert [(await come(one, party, 3))[2] for party in "abc"] == [generation] * 3


async def test_a_barrier_whose_wait_is_over_counts_the_party_no_more(backend: Backend) -> None:
    async with process(backend) as client:
        found = await client.facts.barrier("b", 2).attend(0.02)
        assert (found.arrived, found.present, found.generation) == (1, 1, None)
        assert await come(client, "a", 2) == (1, 1, None)
