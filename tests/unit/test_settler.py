"""Settling: one call for all shards, repeated until answered, counted once, and nothing forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swell.bus import replies
from swell.bus import settler as module
from swell.bus.broker import Append, Lease
from swell.bus.entry import Entry
from swell.bus.memory import MemoryServer
from swell.bus.settler import CALL_ENTRIES, Settler
from swell.bus.shard import OwnedShard
from swell.codec import decode_replies, raw
from swell.errors import BrokerRefused, BrokerUnavailable
from swell.instruments import Recorder
from tests.unit.brokers import LONG_MS, NO_WAIT, FaultyBroker

FOR_EVER_NS = 1 << 62


class Bench:
    """A settler with shards of its own, on a broker that may be told to misbehave."""

    def __init__(self) -> None:
        self.broker = FaultyBroker(MemoryServer())
        self.recorder = Recorder("me")
        self.owned: dict[str, OwnedShard] = {}
        self.stale: list[str] = []
        self.settler = Settler(self.broker, self.owned, self.recorder, self._lost)

    def _lost(self, shard: OwnedShard) -> None:
        self.stale.append(shard.name)
        del self.owned[shard.name]

    async def own(self, name: str, entries: int, count: int = 2, read_ns: int = FOR_EVER_NS) -> list[Entry]:
        """Own a shard with so many entries of `count` messages, all read; by default just now."""
        appends = [Append(name, seq + 1, count, b"") for seq in range(entries)]
        await self.broker.append("p", appends, 1_000_000)
        lease = await self.broker.acquire(name, "me", LONG_MS)
        assert isinstance(lease, Lease)
        shard = OwnedShard(lease, await self.broker.inherit(lease), FOR_EVER_NS, self.settler.dirty)
        self.owned[name] = shard
        read = await self.broker.read("me", [name], entries, 0) if entries else []
        return [shard.opened(one.id, one.count, 10, read_ns) for one in read]


@asynccontextmanager
async def settling() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.broker.open(8)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(bench.settler.run())
        yield bench
        running.cancel()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT", NO_WAIT)


def end(*entries: Entry) -> None:
    for entry in entries:
        for index in range(entry.count):
            entry.ack(index)


async def test_one_call_settles_what_ended_in_all_shards() -> None:
    async with settling() as b:
        entries = [entry for name in ("0", "1", "2") for entry in await b.own(name, 3)]
        end(*entries)
        await b.settler.flush()
        assert b.broker.calls["settle"] == 1
        for name in ("0", "1", "2"):
            ledger = await b.broker.ledger(name)
            assert (ledger.acked, ledger.depth, ledger.entries, ledger.balanced) == (6, 0, 0, True)
            assert b.owned[name].open == {}


async def test_what_ends_while_a_settle_is_in_flight_goes_with_the_next() -> None:
    async with settling() as b:
        first, *others = await b.own("0", 20)
        b.broker.gates["settle"] = asyncio.Event()
        end(first)
        await b.broker.called("settle", 1)
        end(*others)
        b.broker.gates["settle"].set()
        await b.settler.flush()
        assert [len(settlements[0].outcomes) for settlements in b.broker.settled] == [1, 19]


async def test_a_settle_whose_answer_is_lost_is_repeated_and_counted_once() -> None:
    async with settling() as b:
        (entry,) = await b.own("0", 1)
        b.broker.faults["settle"] = ["lost", BrokerUnavailable("away"), "lost", BrokerRefused("not now")]
        entry.ack(0)
        entry.kill(1, b"letter")
        await b.settler.flush()
        assert b.broker.calls["settle"] == 5
        ledger = await b.broker.ledger("0")
        assert (ledger.acked, ledger.dead, ledger.balanced) == (1, 1, True)
        assert [letter for _, letter in await b.broker.dead("0", 9)] == [b"letter"]


async def test_while_a_settle_is_refused_its_reason_is_told_and_logged_ever_more_rarely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with settling() as b:
        (entry,) = await b.own("0", 1)
        b.broker.faults["settle"] = [BrokerRefused("no rights")] * 100
        end(entry)
        await b.broker.called("settle", 50)
        assert b.settler.problem == "settling waits: no rights"
        await b.settler.flush()
        assert b.settler.problem == ""
    assert len([record for record in caplog.records if "settle waits" in record.message]) == 7


async def test_more_entries_than_one_call_takes_are_all_settled() -> None:
    async with settling() as b:
        entries = await b.own("0", 2 * CALL_ENTRIES + 1, count=1)
        end(*entries)
        for _ in range(3):
            await b.settler.flush()
        assert [len(settlements[0].outcomes) for settlements in b.broker.settled] == [CALL_ENTRIES, CALL_ENTRIES, 1]
        assert (await b.broker.ledger("0")).entries == 0


async def test_an_entry_that_ended_in_part_is_recorded_so_once_it_is_old_and_not_before() -> None:
    async with settling() as b:
        (old,) = await b.own("0", 1, read_ns=0)
        (young,) = await b.own("1", 1)
        old.ack(1)
        young.ack(1)
        await b.broker.called("settle", 1)
        await b.settler.flush()
        assert [[one.lease.shard for one in settlements] for settlements in b.broker.settled] == [["0"]]
        assert (await b.broker.ledger("0")).acked == 1
        assert (await b.broker.ledger("1")).acked == 0
        partial = (await b.broker.inherit(b.owned["0"].lease)).partial[old.id]
        assert (partial.acked, partial.bitmap) == (1, b"\0\1")
        end_rest = old.ack
        end_rest(0)
        await b.settler.flush()
        ledger = await b.broker.ledger("0")
        assert (ledger.acked, ledger.entries, ledger.balanced) == (2, 0, True)


async def test_at_a_hand_over_also_what_ended_in_part_a_moment_ago_is_written() -> None:
    async with settling() as b:
        entries = await b.own("0", CALL_ENTRIES + 5)
        shard = b.owned["0"]
        for entry in entries:
            entry.ack(0)
        await b.settler.flush()
        assert (await b.broker.ledger("0")).acked == 0
        shard.stop()
        flushes = 0
        while shard.unwritten:
            await b.settler.flush()
            flushes += 1
        assert flushes == 2
        assert (await b.broker.ledger("0")).acked == len(entries)


async def test_a_stale_epoch_is_told_once_and_the_other_shards_are_written() -> None:
    async with settling() as b:
        mine = await b.own("0", 2)
        other = await b.own("1", 2)
        await b.broker.release(b.owned["0"].lease)
        await b.broker.acquire("0", "another", LONG_MS)
        end(*mine, *other)
        await b.settler.flush()
        assert b.stale == ["0"]
        assert (await b.broker.ledger("0")).acked == 0
        assert (await b.broker.ledger("0")).stale == 1
        assert (await b.broker.ledger("1")).acked == 4


async def test_a_shard_that_is_lost_while_its_settle_is_in_flight_harms_no_flush_and_no_other_shard() -> None:
    async with settling() as b:
        mine = await b.own("0", 2)
        other = await b.own("1", 2)
        b.broker.gates["settle"] = asyncio.Event()
        end(*mine, *other)
        await b.broker.called("settle", 1)
        waiting = asyncio.ensure_future(b.settler.flush())
        await asyncio.sleep(0)
        del b.owned["0"]
        b.broker.gates["settle"].set()
        await waiting
        assert (await b.broker.ledger("0")).acked == 4
        assert b.owned["1"].open == {}


async def test_a_record_that_changes_while_a_settle_is_in_flight_is_not_overtaken() -> None:
    async with settling() as b:
        await b.own("0", 0)
        shard = b.owned["0"]
        b.broker.gates["settle"] = asyncio.Event()
        b.broker.faults["settle"] = ["lost", BrokerUnavailable("away")]
        shard.record("a", b"old")
        shard.record("b", b"old")
        await b.broker.called("settle", 1)
        shard.record("a", b"new")
        shard.record("b", None)
        b.broker.gates["settle"].set()
        await b.settler.flush()
        assert await b.broker.records("0") == {"a": b"new"}


async def test_replies_go_together_to_each_process_and_those_nobody_waits_for_are_counted() -> None:
    async with settling() as b:
        await b.broker.open_replies("asker", 60_000)
        for call in range(5):
            b.settler.replies.add("asker", call, 0, raw(call))
        b.settler.replies.add("gone", 1, 0, raw(None))
        await b.settler.flush()
        ((_, payload),) = await b.broker.read_replies("asker", "0", 0)
        assert [reply.call for reply in decode_replies(payload)] == [0, 1, 2, 3, 4]
        measured = b.recorder.take()
        assert measured is not None
        assert measured.counts["replies_dropped"] == {"": 1}


async def test_replies_larger_than_one_entry_of_them_come_in_several_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "REPLIES_BYTES", 10_000)
    async with settling() as b:
        await b.broker.open_replies("asker", LONG_MS)
        sizes = [10, 4000, 4000, 4000, 30_000, 10, 10]
        for call, size in enumerate(sizes):
            b.settler.replies.add("asker", call, 0, raw(b"x" * size))
        await b.settler.flush()
        entries = await b.broker.read_replies("asker", "0", 0)
    assert all(len(payload) <= 10_000 or len(decode_replies(payload)) == 1 for _, payload in entries)
    assert len(entries) > 2
    assert [reply.call for _, payload in entries for reply in decode_replies(payload)] == list(range(len(sizes)))


async def test_settles_of_a_lease_are_numbered_and_a_repeated_one_keeps_its_number() -> None:
    async with settling() as b:
        entries = await b.own("0", 2)
        b.broker.faults["settle"] = ["lost"]
        for entry in entries:
            end(entry)
            await b.settler.flush()
        assert [call[0].seq for call in b.broker.settled] == [1, 1, 2]
        assert (await b.broker.ledger("0")).acked == 4
