"""Processes: who lives, and the replies that are on their way to them."""

from __future__ import annotations

import asyncio

import pytest

from swell.bus.broker import Broker, Member, Outcome, Settlement
from swell.errors import GroupGone
from tests.conformance.backends import BLOCK_MS, LONG_MS, PATIENCE_S, SHORT_MS, Backend, fill, lapse, own


async def test_members_are_those_that_live_sorted_by_name(broker: Broker, other: Broker) -> None:
    assert await broker.members("worker") == []
    assert await broker.heartbeat("worker", "b", LONG_MS, b"info of b") == [Member("b", b"info of b")]
    expected = [Member("a", b"\x00\xff"), Member("b", b"info of b")]
    assert await other.heartbeat("worker", "a", LONG_MS, b"\x00\xff") == expected
    assert await broker.members("worker") == expected
    assert await broker.members("manager") == []


async def test_a_heartbeat_replaces_what_a_process_says_of_itself(broker: Broker) -> None:
    await broker.heartbeat("worker", "a", LONG_MS, b"old")
    assert await broker.heartbeat("worker", "a", LONG_MS, b"new") == [Member("a", b"new")]


async def test_a_member_that_leaves_is_gone_at_once(broker: Broker) -> None:
    await broker.heartbeat("worker", "a", LONG_MS, b"a")
    await broker.heartbeat("worker", "b", LONG_MS, b"b")
    assert await broker.heartbeat("worker", "a", 0, b"a") == [Member("b", b"b")]
    assert await broker.heartbeat("worker", "never there", 0, b"") == [Member("b", b"b")]
    assert await broker.members("worker") == [Member("b", b"b")]


async def test_a_silent_member_is_gone_after_a_ttl_when_the_clock_was_set_back(
    backend: Backend, broker: Broker, other: Broker
) -> None:
    await broker.heartbeat("worker", "silent", SHORT_MS, b"a")
    await backend.set_back(3_600_000)

    found = await other.heartbeat("worker", "living", SHORT_MS, b"b")
    assert [member.process for member in found] == ["living", "silent"]

    async def all_gone() -> bool:
        return await other.members("worker") == []

    await backend.until(all_gone)


async def test_a_member_without_heartbeat_is_gone_after_its_ttl(
    backend: Backend, broker: Broker, other: Broker
) -> None:
    await broker.heartbeat("worker", "silent", SHORT_MS, b"a")
    await other.heartbeat("worker", "living", LONG_MS, b"b")

    async def silent_is_gone() -> bool:
        return await other.members("worker") == [Member("living", b"b")]

    await backend.until(silent_is_gone)
    assert await other.heartbeat("worker", "living", LONG_MS, b"b") == [Member("living", b"b")]


async def test_replies_reach_the_process_that_waits(broker: Broker, other: Broker) -> None:
    await broker.open_replies("asker", LONG_MS)
    waiting = asyncio.create_task(broker.read_replies("asker", "0", BLOCK_MS))
    await other.ping()
    assert await other.settle([], {"asker": b"\x00answer\xff"}) == ([], 0)
    ((_, payload),) = await waiting
    assert payload == b"\x00answer\xff"


async def test_replies_are_kept_until_a_later_read_passes_them(broker: Broker, other: Broker) -> None:
    await broker.open_replies("asker", LONG_MS)
    for payload in (b"one", b"two", b"three"):
        await other.settle([], {"asker": payload})
    replies = await broker.read_replies("asker", "0", 0)
    assert [payload for _, payload in replies] == [b"one", b"two", b"three"]
    assert await broker.read_replies("asker", "0", 0) == replies
    assert await broker.read_replies("asker", replies[1][0], 0) == replies[2:]
    assert await broker.read_replies("asker", "0", 0) == replies[2:]
    assert await broker.read_replies("asker", replies[2][0], 0) == []
    await other.settle([], {"asker": b"four"})
    assert [payload for _, payload in await broker.read_replies("asker", replies[2][0], BLOCK_MS)] == [b"four"]


async def test_waiting_for_replies_in_vain_ends_in_time(broker: Broker) -> None:
    await broker.open_replies("asker", LONG_MS)
    async with asyncio.timeout(PATIENCE_S):
        assert await broker.read_replies("asker", "0", 0) == []
        assert await broker.read_replies("asker", "0", 20) == []


async def test_a_reply_never_makes_a_stream(broker: Broker) -> None:
    await broker.open_replies("here", LONG_MS)
    assert await broker.settle([], {"gone": b"x", "here": b"y", "also gone": b"z"}) == ([], 2)
    with pytest.raises(GroupGone):
        await broker.read_replies("gone", "0", 0)
    assert [payload for _, payload in await broker.read_replies("here", "0", 0)] == [b"y"]


async def test_replies_go_out_with_a_settle(broker: Broker, other: Broker) -> None:
    await other.open_replies("asker", LONG_MS)
    await fill(broker, "0", 1)
    lease = await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    settlement = Settlement(lease, [Outcome(entry.id, 1)])
    assert await broker.settle([settlement], {"asker": b"answer", "gone": b"x"}) == ([True], 1)
    assert [payload for _, payload in await other.read_replies("asker", "0", BLOCK_MS)] == [b"answer"]


async def test_a_reply_stream_is_gone_after_its_ttl_and_can_be_made_anew(backend: Backend, broker: Broker) -> None:
    assert await broker.open_replies("asker", SHORT_MS)
    await broker.settle([], {"asker": b"old"})

    async def gone() -> bool:
        return await broker.settle([], {"asker": b"probe"}) == ([], 1)

    await backend.until(gone)
    for block_ms in (0, 20):
        with pytest.raises(GroupGone):
            await broker.read_replies("asker", "0", block_ms)
    assert await broker.open_replies("asker", LONG_MS)
    assert await broker.read_replies("asker", "0", 0) == []
    assert await broker.settle([], {"asker": b"new"}) == ([], 0)


async def test_prolonging_a_reply_stream_keeps_what_is_in_it(backend: Backend, broker: Broker) -> None:
    await broker.open_replies("asker", SHORT_MS)
    await broker.settle([], {"asker": b"answer"})
    assert not await broker.open_replies("asker", LONG_MS)
    await broker.heartbeat("test", "clock", SHORT_MS * 2, b"")

    async def longer_than_the_first_ttl() -> bool:
        return await broker.members("test") == []

    await backend.until(longer_than_the_first_ttl)
    assert [payload for _, payload in await broker.read_replies("asker", "0", 0)] == [b"answer"]


async def test_a_cancelled_wait_for_replies_loses_none(broker: Broker, other: Broker) -> None:
    await broker.open_replies("asker", LONG_MS)
    found: list[bytes] = []
    after = "0"
    for number in range(20):
        waiting = asyncio.create_task(broker.read_replies("asker", after, BLOCK_MS))
        replying = asyncio.create_task(other.settle([], {"asker": b"%d" % number}))
        for _ in range(number % 8):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, replying, return_exceptions=True)
        replies = await broker.read_replies("asker", after, BLOCK_MS)
        after = replies[-1][0]
        found += [payload for _, payload in replies]
    assert found == [b"%d" % number for number in range(20)]


async def test_a_glance_tells_the_age_of_what_waits_the_lease_and_the_ledger(backend: Backend, broker: Broker) -> None:
    (empty,) = await broker.glance(["0"])
    assert (empty.oldest_ms, empty.owner, empty.remaining_ms, empty.ledger.sent) == (None, "", 0, 0)
    await fill(broker, "0", 2)
    lease = await own(broker, "0", "w1", LONG_MS)
    (first, other) = await broker.glance(["0", "1"])
    assert first.oldest_ms is not None
    assert 0 <= first.oldest_ms < LONG_MS
    assert (first.owner, first.ledger.shard, first.ledger.depth) == ("w1", "0", first.ledger.sent)
    assert first.ledger.sent > 0
    assert 0 < first.remaining_ms <= LONG_MS
    assert 0 <= first.held_ms < LONG_MS
    assert (other.owner, other.oldest_ms) == ("", None)
    assert await broker.release(lease)
    assert (await broker.glance(["0"]))[0].remaining_ms == 0


async def test_an_owner_that_is_replaced_after_its_lease_lapsed_is_counted(backend: Backend, broker: Broker) -> None:
    lease = await own(broker, "0", "w1", LONG_MS)
    assert await broker.release(lease)
    await own(broker, "0", "w2", SHORT_MS)
    assert (await broker.glance(["0"]))[0].ledger.lapsed == 0
    await lapse(backend, broker, "0")
    await own(broker, "0", "w2", SHORT_MS)
    assert (await broker.ledger("0")).lapsed == 0  # Its own again.
    await lapse(backend, broker, "0")
    await own(broker, "0", "w3", LONG_MS)
    assert (await broker.ledger("0")).lapsed == 1


async def test_the_memory_of_the_server_is_told(broker: Broker) -> None:
    used, limit = await broker.memory()
    assert used >= 0
    assert limit == 0
