"""A shard's inboxes: each is read, kept in order and settled by itself; lease, ledger and records are the shard's."""

from __future__ import annotations

import asyncio

import pytest

from swell.bus.broker import Append, Broker, Outcome, Settlement
from swell.bus.events import FanOut, mark_of
from swell.bus.timed import AGAIN, KINDS, ONCE, Next, Timed
from swell.errors import GroupGone
from swell.priority import PRIORITIES, Priority, inbox_of, inboxes
from tests.conformance.backends import SHORT_MS, Backend, MemoryBackend, fill, own, payloads, settle, take_over

ALL = inboxes("0")
CRITICAL, HIGH, NORMAL, LOW = ALL


async def settle_in(broker: Broker, lease: object, inbox: str, *outcomes: Outcome) -> bool:
    (valid,), _ = await broker.settle([Settlement(lease, list(outcomes), inbox=inbox)])  # type: ignore[arg-type]
    return valid


async def test_each_inbox_has_its_own_order_and_sequence_and_all_count_in_one_ledger(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    sent = {inbox: await fill(broker, inbox, 1, 2, 1) for inbox in ALL}
    for inbox in reversed(ALL):
        assert payloads(await broker.read("worker", [inbox], 10, 0)) == sent[inbox]
    ledger = await broker.ledger("0")
    assert (ledger.sent, ledger.depth, ledger.present, ledger.entries) == (16, 16, 16, 12)
    for inbox in ALL:
        entries = await broker.pending("worker", inbox, "0", 10)
        assert await settle_in(broker, lease, inbox, *(Outcome(one.id, acked=one.count) for one in entries))
        assert await broker.pending("worker", inbox, "0", 10) == []
    ledger = await broker.ledger("0")
    assert (ledger.acked, ledger.depth, ledger.entries) == (16, 0, 0)


async def test_a_batch_that_comes_again_is_a_duplicate_in_its_own_inbox_alone(broker: Broker) -> None:
    batch = Append(HIGH, 1, 1, b"x")
    assert [(await broker.append("sender", [batch], 100))[0].status for _ in range(2)] == ["ok", "duplicate"]
    assert (await broker.append("sender", [Append(LOW, 1, 1, b"y"), Append(NORMAL, 1, 1, b"z")], 100))[1].status == "ok"
    assert (await broker.ledger("0")).sent == 3


async def test_a_read_waits_for_its_own_priority_beside_others_and_all_are_woken(broker: Broker) -> None:
    await own(broker, "0", "worker")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        reads = {inbox: group.create_task(broker.read("worker", [inbox], 10, 8000)) for inbox in ALL}
        await fill(broker, CRITICAL, 1)
        assert len(await reads.pop(CRITICAL)) == 1
        assert not any(read.done() for read in reads.values())
        while not all(read.done() for read in reads.values()):
            await broker.wake()
    assert [read.result() for read in reads.values()] == [[], [], []]


async def test_a_new_owner_finds_what_is_left_of_each_inbox_and_how_many_died_with_it(
    broker: Broker, backend: Backend
) -> None:
    old = await own(broker, "0", "old", SHORT_MS)
    for inbox in ALL:
        await fill(broker, inbox, 3, 1)
        (first, _) = await broker.read("old", [inbox], 10, 0)
        assert await settle_in(broker, old, inbox, Outcome(first.id, 1, done=False, bitmap=b"\0\1\0"))
    new = await take_over(backend, broker, "0", "new")
    inherited = await broker.inherit(new)
    left = {NORMAL: (inherited.partial, inherited.deliveries), **inherited.others}
    assert set(left) == set(ALL)
    for inbox, (partial, deliveries) in left.items():
        entries = await broker.read("new", [inbox], 10, 0)
        assert {id: part.bitmap for id, part in partial.items()} == {entries[0].id: b"\0\1\0"}
        assert deliveries == {one.id: 1 for one in entries}
        assert not await settle_in(broker, old, inbox, Outcome(entries[0].id, 3))
        assert await settle_in(broker, new, inbox, Outcome(entries[0].id, 3))
        assert await broker.trial(new._replace(shard=inbox), entries[1].id, 0) == 1
    ledger = await broker.ledger("0")
    assert (ledger.acked, ledger.depth, ledger.stale) == (12, 4, 4)


async def test_after_a_release_nobody_reads_any_inbox(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    assert await broker.release(lease)
    for inbox in ALL:
        with pytest.raises(GroupGone):
            await broker.read("worker", [inbox], 10, 0)


async def test_entries_of_two_inboxes_with_one_id_do_not_meet(broker: Broker) -> None:
    """Ids are made of the server's milliseconds: two inboxes often have the same ones."""
    lease = await own(broker, "0", "worker")
    found: dict[str, set[str]] = {HIGH: set(), LOW: set()}
    async with asyncio.timeout(20):
        seq = 0
        while not (both := found[HIGH] & found[LOW]):
            seq += 1
            await broker.append("sender", [Append(inbox, seq, 2, b"x") for inbox in found], 1_000_000)
            for inbox, ids in found.items():
                ids.update(one.id for one in await broker.read("worker", [inbox], 1000, 0))
    id = both.pop()
    assert await settle_in(broker, lease, HIGH, Outcome(id, 1, done=False, bitmap=b"\1\0"))
    assert await settle_in(broker, lease, LOW, Outcome(id, 2))
    assert await settle_in(broker, lease, HIGH, Outcome(id, 2))
    ledger = await broker.ledger("0")
    assert (ledger.acked, ledger.balanced) == (4, True)


async def test_settlements_of_several_inboxes_and_records_are_written_in_one_call_and_a_late_one_undoes_nothing(
    broker: Broker,
) -> None:
    lease = await own(broker, "0", "worker")
    ids = {}
    for inbox in ALL:
        await fill(broker, inbox, 2)
        ids[inbox] = (await broker.read("worker", [inbox], 10, 0))[0].id
    early = [
        Settlement(lease, [Outcome(id, 1, done=False, bitmap=b"\1\0")], {"a/1": b"1"}, seq, inbox=inbox)
        for seq, (inbox, id) in enumerate(ids.items(), 1)
    ]
    final = [
        Settlement(lease, [Outcome(id, 2)], seq=seq, inbox=inbox) for seq, (inbox, id) in enumerate(ids.items(), 5)
    ]
    final[0].records["a/1"] = b"2"
    assert await broker.settle(early) == ([True] * 4, 0)
    assert await broker.settle(final) == ([True] * 4, 0)
    assert await broker.settle(early) == ([True] * 4, 0)
    assert await broker.record("0", "a/1") == b"2"
    ledger = await broker.ledger("0")
    assert (ledger.acked, ledger.depth) == (8, 0)


async def test_what_waits_for_its_time_is_stored_with_the_end_of_its_request_and_goes_to_its_own_inbox(
    broker: Broker,
) -> None:
    lease = await own(broker, "0", "worker")
    await fill(broker, HIGH, 1)
    (request,) = await broker.read("worker", [HIGH], 10, 0)
    timed = {priority: Timed(1, kind + priority.encode()) for priority, kind in KINDS.items()}
    timed |= {"normal": Timed(1, ONCE + b"normal"), "daily": Timed(1, AGAIN + b"daily")}
    settlement = Settlement(lease, [Outcome(request.id, 1)], timed=timed, inbox=HIGH, seq=2)
    assert await broker.settle([Settlement(lease, records={"a/1": b"1"}, seq=1), settlement]) == ([True, True], 0)
    fired = await broker.fire(lease, [Next("daily", 1, 4_000_000_000_000, b"low again", KINDS["low"])])
    assert fired is not None
    assert fired.moved == 5
    names: dict[Priority, list[bytes]] = {one: [one.encode()] for one in PRIORITIES}
    names["low"].insert(0, b"low again")
    for priority, expected in names.items():
        assert payloads(await broker.read("worker", [inbox_of("0", priority)], 10, 0)) == expected
    ledger = await broker.ledger("0")
    assert (ledger.sent, ledger.depth, ledger.scheduled) == (6, 5, 1)


async def test_events_are_fanned_out_in_their_own_inbox_with_a_mark_of_their_own(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    for inbox in ALL:
        step = FanOut(b"", inbox.encode(), [(1, inbox.encode())])
        assert [await broker.fan_out(lease._replace(shard=inbox), step, 100) for _ in range(2)] == ["ok", "ok"]
    for inbox in ALL:
        assert payloads(await broker.read("worker", [inbox], 10, 0)) == [inbox.encode()]
        assert await broker.record("0", mark_of(inbox)) == inbox.encode()
    assert (await broker.ledger("0")).sent == 4


async def test_a_letter_goes_back_to_the_inbox_that_it_is_replayed_to(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    await fill(broker, CRITICAL, 1)
    (entry,) = await broker.read("worker", [CRITICAL], 10, 0)
    assert await settle_in(broker, lease, CRITICAL, Outcome(entry.id, 0, dead=1, letters=[b"letter"]))
    ((place, _),) = await broker.dead("0", 10)
    assert await broker.replay(CRITICAL, [(place, b"again")], 100) == ["ok"]
    assert payloads(await broker.read("worker", [CRITICAL], 10, 0)) == [b"again"]
    assert await broker.dead("0", 10) == []
    assert await settle(broker, lease)


async def test_the_oldest_of_all_inboxes_tells_how_long_something_waits(broker: Broker, backend: Backend) -> None:
    await own(broker, "0", "worker")
    assert [one.oldest_ms for one in await broker.glance(["0", "1"])] == [None, None]
    await fill(broker, LOW, 1)
    async with asyncio.timeout(10):
        while not (first := (await broker.glance(["0"]))[0].oldest_ms) and not isinstance(backend, MemoryBackend):
            pass  # Each question is a round trip: time passes on the server.
    await fill(broker, NORMAL, 1)
    oldest, none = [one.oldest_ms for one in await broker.glance(["0", "1"])]
    assert oldest is not None
    assert first is not None
    assert oldest >= first
    assert none is None
