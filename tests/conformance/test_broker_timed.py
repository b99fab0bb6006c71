"""Messages that wait for their time: each is moved into the inbox once, by the shard's owner; the ledger balances."""

from __future__ import annotations

import asyncio
import time

from swell.bus.broker import Broker, Lease, Outcome, Settlement
from swell.bus.timed import AGAIN, ONCE, Fired, Next, Timed
from tests.conformance.backends import SHORT_MS, Backend, fill, own, payloads, take_over

#: Long past, and far ahead, by any server's clock; milliseconds since 1970.
PAST = 1_000
AHEAD = 4_000_000_000_000


async def store(broker: Broker, lease: Lease, seq: int = 0, **timed: Timed | None) -> bool:
    (valid,), _ = await broker.settle([Settlement(lease, seq=seq, timed=dict(timed))])
    return valid


async def fire(broker: Broker, lease: Lease, *nexts: Next, most: int = 256) -> Fired:
    fired = await broker.fire(lease, nexts, most)
    assert fired is not None
    return fired


def once(due_ms: int, payload: bytes) -> Timed:
    return Timed(due_ms, ONCE + payload)


async def test_what_is_due_is_moved_into_the_inbox_in_order_and_the_rest_waits(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    assert await store(broker, lease, c=once(AHEAD, b"3"), b=once(PAST + 1, b"2"), a=once(PAST, b"1"))
    ledger = await broker.ledger("0")
    assert (ledger.sent, ledger.depth, ledger.scheduled) == (0, 0, 3)
    assert [one.id for one in await broker.scheduled("0", 10)] == ["a", "b", "c"]
    fired = await fire(broker, lease)
    assert (fired.next_ms, fired.moved, fired.waiting, fired.recurring) == (AHEAD, 2, 1, [])
    assert payloads(await broker.read("worker", ["0"], 10, 0)) == [b"1", b"2"]
    ledger = await broker.ledger("0")
    assert (ledger.sent, ledger.depth, ledger.scheduled) == (2, 2, 1)
    assert [g.ledger.scheduled for g in await broker.glance(["0", "1"])] == [1, 0]


async def test_the_same_call_again_moves_nothing_twice(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    await store(broker, lease, a=once(PAST, b"1"))
    assert [(await fire(broker, lease)).moved for _ in range(3)] == [1, 0, 0]
    assert (await fire(broker, lease)).next_ms is None
    assert len(await broker.read("worker", ["0"], 10, 0)) == 1


async def test_a_call_moves_at_most_so_many_and_says_that_more_are_due(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    await store(broker, lease, **{f"m{n}": once(PAST + n, b"%d" % n) for n in range(5)})
    found = [await fire(broker, lease, most=2) for _ in range(3)]
    assert [(one.moved, one.next_ms) for one in found] == [(2, PAST + 2), (2, PAST + 4), (1, None)]


async def test_a_recurring_message_is_moved_once_for_each_of_its_times(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    await store(broker, lease, daily=Timed(PAST, AGAIN + b"every day"), a=once(PAST, b"1"))
    fired = await fire(broker, lease)
    assert (fired.moved, fired.next_ms) == (1, PAST)
    assert fired.recurring == [("daily", PAST, AGAIN + b"every day")]
    first = Next("daily", PAST, PAST + 5, b"first")
    assert [(await fire(broker, lease, first)).moved for _ in range(2)] == [1, 0]
    fired = await fire(broker, lease, Next("daily", PAST + 5, AHEAD, b"second"), Next("daily", PAST, AHEAD, b"first"))
    assert (fired.moved, fired.next_ms, fired.waiting, fired.recurring) == (1, AHEAD, 1, [])
    assert payloads(await broker.read("worker", ["0"], 10, 0)) == [b"1", b"first", b"second"]


async def test_storing_again_takes_the_place_and_removing_removes(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    await store(broker, lease, a=once(PAST, b"old"), b=once(PAST, b"never"))
    await store(broker, lease, a=once(AHEAD, b"new"), b=None, c=None)
    assert await broker.scheduled("0", 10) == [("a", AHEAD, ONCE + b"new")]
    assert [await broker.waits("0", id) is not None for id in "abc"] == [True, False, False]
    assert (await broker.ledger("0")).scheduled == 1
    assert (await fire(broker, lease)).moved == 0


async def test_it_is_stored_in_the_instant_in_which_its_request_is_acked_and_never_again(broker: Broker) -> None:
    await fill(broker, "0", 1)
    await fill(broker, "1", 1)
    lease, other = await own(broker, "0", "worker"), await own(broker, "1", "worker")
    asked, beside = await broker.read("worker", ["0", "1"], 10, 0)
    settlements = [
        Settlement(other, [Outcome(beside.id, 1)], seq=1),
        Settlement(lease, [Outcome(asked.id, 1)], {"r": b"record"}, 1, {"a": once(PAST, b"1")}),
    ]
    assert await broker.settle(settlements) == ([True, True], 0)
    assert (await fire(broker, lease)).moved == 1
    assert await broker.settle(settlements) == ([True, True], 0)
    assert (await fire(broker, lease)).moved == 0
    ledger = await broker.ledger("0")
    assert (ledger.sent, ledger.acked, ledger.depth) == (2, 1, 1)
    assert await broker.record("0", "r") == b"record"


async def test_an_old_owner_stores_and_moves_nothing(backend: Backend, broker: Broker, other: Broker) -> None:
    old = await own(broker, "0", "first", SHORT_MS)
    await store(broker, old, a=once(PAST, b"1"))
    lease = await take_over(backend, other, "0", "second")
    assert not await store(broker, old, b=once(PAST, b"2"))
    assert await broker.fire(old) is None
    assert [one.id for one in await other.scheduled("0", 10)] == ["a"]
    assert (await fire(other, lease)).moved == 1


async def test_two_that_ask_at_once_move_each_message_once(broker: Broker, other: Broker) -> None:
    lease = await own(broker, "0", "worker")
    await store(broker, lease, **{f"m{n}": once(PAST, b"%d" % n) for n in range(50)})
    answers = await asyncio.gather(*(each.fire(lease, (), 7) for each in (broker, other) * 10))
    assert sum(one.moved for one in answers if one is not None) == 50
    assert (await broker.ledger("0")).sent == 50


async def test_the_time_is_the_servers_and_it_is_told(backend: Backend, broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    now_ms = (await fire(broker, lease)).now_ms
    assert now_ms > 1_700_000_000_000
    await store(broker, lease, a=once(now_ms + 30, b"1"))

    async def moved() -> bool:
        fired = await fire(broker, lease)
        assert (fired.now_ms >= now_ms + 30) == (fired.waiting == 0)
        return fired.waiting == 0

    began = time.monotonic()
    await backend.until(moved)
    assert time.monotonic() - began < 20
