"""Read: each entry once, in order; a wait that ends for an entry, for wake, or in time; nothing lost on the way."""

from __future__ import annotations

import asyncio

import pytest

from swell.bus.broker import Broker, Delivered, Outcome
from tests.conformance.backends import BLOCK_MS, LONG_MS, PATIENCE_S, Backend, fill, own, payloads, settle


async def test_each_entry_is_read_once_in_the_order_appended(broker: Broker) -> None:
    expected = await fill(broker, "0", *range(1, 11))
    await own(broker, "0", "worker")
    parts = [await broker.read("worker", ["0"], 4, 0) for _ in range(4)]
    assert [len(part) for part in parts] == [4, 4, 2, 0]
    entries = [entry for part in parts for entry in part]
    assert payloads(entries) == expected
    assert [entry.count for entry in entries] == list(range(1, 11))


async def test_one_read_takes_up_to_count_entries_of_each_shard(broker: Broker) -> None:
    for shard, entries in (("0", 5), ("1", 1), ("2", 0), ("3", 3)):
        await fill(broker, shard, *[1] * entries)
        await own(broker, shard, "worker")
    read = await broker.read("worker", ["0", "1", "2", "3"], 3, 0)
    assert [sum(entry.shard == shard for entry in read) for shard in "0123"] == [3, 1, 0, 3]


async def test_only_the_shards_named_are_read(broker: Broker) -> None:
    for shard in ("0", "1"):
        await fill(broker, shard, 1)
        await own(broker, shard, "worker")
    assert [entry.shard for entry in await broker.read("worker", ["1"], 10, 0)] == ["1"]


async def test_a_read_without_waiting_returns_at_once(broker: Broker) -> None:
    await own(broker, "0", "worker")
    async with asyncio.timeout(PATIENCE_S):
        assert await broker.read("worker", ["0"], 10, 0) == []


async def test_a_read_that_waits_in_vain_returns_nothing(broker: Broker) -> None:
    await own(broker, "0", "worker")
    assert await broker.read("worker", ["0"], 10, 20) == []


async def test_a_read_that_waits_gets_what_another_process_appends(broker: Broker, other: Broker) -> None:
    for shard in ("0", "1"):
        await own(broker, shard, "worker")
    waiting = asyncio.create_task(broker.read("worker", ["0", "1"], 10, BLOCK_MS))
    await other.ping()
    expected = await fill(other, "1", 1)
    assert payloads(await waiting) == expected


async def test_wake_ends_a_read_that_waits_and_the_next_one_gets_what_comes(broker: Broker, other: Broker) -> None:
    await own(broker, "0", "worker")
    waiting = asyncio.create_task(broker.read("worker", ["0"], 10, BLOCK_MS))
    await other.ping()
    await broker.wake()
    assert await waiting == []
    expected = await fill(other, "0", 1)
    assert payloads(await broker.read("worker", ["0"], 10, BLOCK_MS)) == expected


async def test_wake_ends_the_read_of_its_own_process_only(broker: Broker, other: Broker) -> None:
    await own(broker, "0", "worker")
    await own(other, "1", "rival")
    ours = asyncio.create_task(broker.read("worker", ["0"], 10, BLOCK_MS))
    theirs = asyncio.create_task(other.read("rival", ["1"], 10, BLOCK_MS))
    await broker.ping()
    await broker.wake()
    assert await ours == []
    assert not theirs.done()
    expected = await fill(broker, "1", 1)
    assert payloads(await theirs) == expected


async def test_wake_ends_a_read_that_has_just_begun(broker: Broker) -> None:
    await own(broker, "0", "worker")
    waking = asyncio.create_task(broker.wake())  # Its turn is when the read first waits, for whatever that may be.
    async with asyncio.timeout(PATIENCE_S):
        assert await broker.read("worker", ["0"], 10, int(10_000 * PATIENCE_S)) == []
        await waking


async def test_wake_without_a_read_does_nothing(broker: Broker) -> None:
    await broker.wake()
    await own(broker, "0", "worker")
    expected = await fill(broker, "0", 1)
    await broker.wake()
    assert payloads(await broker.read("worker", ["0"], 10, BLOCK_MS)) == expected


async def test_many_reads_and_wakes_lose_nothing(broker: Broker, other: Broker) -> None:
    await own(broker, "0", "worker")
    read: list[Delivered] = []
    expected: list[bytes] = []
    for seq in range(1, 101):
        waiting = asyncio.create_task(broker.read("worker", ["0"], 10, BLOCK_MS))
        appending = asyncio.create_task(fill(other, "0", 1, first=seq))
        await broker.wake()
        read += await waiting
        expected += await appending
    read += await broker.read("worker", ["0"], 200, 0)
    assert payloads(read) == expected


async def test_pending_are_the_entries_read_and_not_settled_in_order(broker: Broker) -> None:
    await fill(broker, "0", *[1] * 6)
    lease = await own(broker, "0", "worker")
    assert await broker.pending("worker", "0", "0", 10) == []
    entries = await broker.read("worker", ["0"], 5, 0)
    await settle(broker, lease, Outcome(entries[1].id, 1))
    kept = [entries[0], *entries[2:]]
    assert await broker.pending("worker", "0", "0", 10) == kept
    assert await broker.pending("worker", "0", "0", 2) == kept[:2]
    assert await broker.pending("worker", "0", kept[1].id, 10) == kept[2:]
    assert await broker.pending("worker", "0", kept[-1].id, 10) == []


async def test_entries_are_fetched_by_id_and_those_that_are_gone_left_out(broker: Broker) -> None:
    await fill(broker, "0", 1, 2, 3)
    lease = await own(broker, "0", "worker")
    first, second, third = await broker.read("worker", ["0"], 10, 0)
    await settle(broker, lease, Outcome(second.id, 2))
    assert await broker.fetch("0", [third.id, second.id, "1-1", first.id]) == [third, first]
    assert await broker.fetch("0", []) == []


async def test_what_a_cancelled_read_took_is_pending(broker: Broker, other: Broker) -> None:
    await own(broker, "0", "worker")
    expected: list[bytes] = []
    found: list[Delivered] = []
    for seq in range(1, 31):
        waiting = asyncio.create_task(broker.read("worker", ["0"], 10, BLOCK_MS))
        appending = asyncio.create_task(fill(other, "0", 1, first=seq))
        # Cancelled at another point each time: before the read was sent, while it waits, after it was answered.
        for _ in range(seq % 10):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        expected += await appending
        after = found[-1].id if found else "0"
        found += await broker.pending("worker", "0", after, 100)
        found += await broker.read("worker", ["0"], 100, 0)
    assert payloads(found) == expected
    assert await broker.pending("worker", "0", "0", 100) == found


async def test_a_read_that_was_cancelled_does_not_take_what_comes_later(broker: Broker, other: Broker) -> None:
    await own(broker, "0", "worker")
    for seq in range(1, 21):
        waiting = asyncio.create_task(broker.read("worker", ["0"], 10, BLOCK_MS))
        await other.ping()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert [entry.count for entry in await broker.pending("worker", "0", "0", 100)] == [1] * (seq - 1)
        again = asyncio.create_task(broker.read("worker", ["0"], 10, BLOCK_MS))
        expected = await fill(other, "0", 1, first=seq)
        async with asyncio.timeout(PATIENCE_S):
            assert payloads(await again) == expected


async def test_a_strangers_entry_is_read_with_a_count_of_0(backend: Backend, broker: Broker) -> None:
    await fill(broker, "0", 1)
    id = await backend.inject("0", {"b": b"\xff\x00 anything"})
    await own(broker, "0", "worker", LONG_MS)
    entries = await broker.read("worker", ["0"], 10, 0)
    assert entries[1:] == [Delivered("0", id, 0, b"\xff\x00 anything")]
    assert await broker.fetch("0", [id]) == entries[1:]
    assert await broker.pending("worker", "0", entries[0].id, 10) == entries[1:]


async def test_a_strangers_entry_without_a_batch_has_an_empty_payload(backend: Backend, broker: Broker) -> None:
    await backend.inject("0", {"x": b"y"})
    await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    assert (entry.count, entry.payload) == (0, b"")
