"""Append: each batch once, in order, whole or not at all, and never past a shard's limit."""

from __future__ import annotations

import pytest

from swell.bus.broker import Append, Appended, Broker, Lease, Outcome
from tests.conformance.backends import LONG_MS, ROOM, Backend, fill, own, payloads, settle


async def test_appended_batches_are_counted_and_read_back_byte_for_byte(broker: Broker) -> None:
    payload = bytes(range(256)) * 16
    assert await broker.append("sender", [Append("0", 1, 3, payload)], ROOM) == [Appended("ok")]
    await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    assert (entry.shard, entry.count, entry.payload) == ("0", 3, payload)
    ledger = await broker.ledger("0")
    assert (ledger.sent, ledger.depth, ledger.present, ledger.entries) == (3, 3, 3, 1)


async def test_a_batch_of_one_mebibyte_is_taken(broker: Broker) -> None:
    payload = b"\xff" * (1 << 20)
    await broker.append("sender", [Append("0", 1, 1, payload)], ROOM)
    await own(broker, "0", "worker")
    assert payloads(await broker.read("worker", ["0"], 1, 0)) == [payload]


async def test_an_append_repeated_is_a_duplicate_and_writes_nothing(broker: Broker) -> None:
    appends = [Append("0", 1, 5, b"a"), Append("0", 2, 5, b"b"), Append("1", 1, 5, b"c")]
    assert await broker.append("sender", appends, ROOM) == [Appended("ok")] * 3
    assert await broker.append("sender", appends, ROOM) == [Appended("duplicate", 0)] * 3
    ledger = await broker.ledger("0")
    assert (ledger.sent, ledger.depth, ledger.duplicate, ledger.entries) == (10, 10, 2, 2)
    assert (await broker.ledger("1")).duplicate == 1


async def test_what_is_new_in_a_repeated_call_is_appended(broker: Broker) -> None:
    await fill(broker, "0", 1, 1)
    appends = [Append("0", seq, 1, b"x") for seq in (1, 2, 3)]
    assert await broker.append("sender", appends, ROOM) == [
        Appended("duplicate"),
        Appended("duplicate"),
        Appended("ok"),
    ]


async def test_a_duplicate_stays_one_after_it_was_settled(broker: Broker) -> None:

    await fill(broker, "0", 1)
    lease = await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    await settle(broker, lease, Outcome(entry.id, 1))
    assert await broker.append("sender", [Append("0", 1, 1, b"x")], ROOM) == [Appended("duplicate")]


@pytest.mark.parametrize(("known", "seq"), [(0, 2), (2, 4), (2, 100)])
async def test_a_gap_is_refused_with_the_last_number_known(broker: Broker, known: int, seq: int) -> None:
    await fill(broker, "0", *[1] * known)
    assert await broker.append("sender", [Append("0", seq, 1, b"x")], ROOM) == [Appended("gap", known)]
    assert (await broker.ledger("0")).sent == known


async def test_each_producer_counts_for_itself_on_each_shard(broker: Broker) -> None:
    await fill(broker, "0", 1, 1, producer="one")
    await fill(broker, "0", 1, producer="another")
    await fill(broker, "1", 1, producer="one")
    assert await broker.append("one", [Append("1", 3, 1, b"x")], ROOM) == [Appended("gap", 1)]


async def test_a_full_shard_is_busy_and_consumes_no_number(broker: Broker) -> None:
    assert await broker.append("sender", [Append("0", 1, 8, b"a")], 10) == [Appended("ok")]
    assert await broker.append("sender", [Append("0", 2, 3, b"b")], 10) == [Appended("busy", 8)]
    ledger = await broker.ledger("0")
    assert (ledger.sent, ledger.depth, ledger.refused, ledger.entries) == (8, 8, 1, 1)
    assert await broker.append("sender", [Append("0", 2, 2, b"c")], 10) == [Appended("ok")]
    assert (await broker.ledger("0")).depth == 10


async def test_behind_a_busy_batch_the_next_one_of_the_call_is_a_gap_so_order_holds(broker: Broker) -> None:
    appends = [Append("0", 1, 4, b"a"), Append("0", 2, 4, b"b"), Append("0", 3, 1, b"c"), Append("1", 1, 4, b"d")]
    assert await broker.append("sender", appends, 5) == [
        Appended("ok"),
        Appended("busy", 4),
        Appended("gap", 1),
        Appended("ok"),
    ]


async def test_a_full_shard_still_tells_duplicates_and_gaps(broker: Broker) -> None:
    await broker.append("sender", [Append("0", 1, 10, b"a")], 10)
    appends = [Append("0", 1, 10, b"a"), Append("0", 3, 1, b"c")]
    assert await broker.append("sender", appends, 10) == [Appended("duplicate"), Appended("gap", 1)]
    assert (await broker.ledger("0")).refused == 0


async def test_answers_come_in_the_order_of_the_batches_and_each_shard_keeps_that_order(broker: Broker) -> None:
    appends = [Append(str(seq % 2), 1 + seq // 2, 1, b"%d" % seq) for seq in range(10)]
    assert await broker.append("sender", appends, ROOM) == [Appended("ok")] * 10
    for shard in ("0", "1"):
        await own(broker, shard, "worker")
    entries = await broker.read("worker", ["0", "1"], 10, 0)
    assert payloads([entry for entry in entries if entry.shard == "0"]) == [b"0", b"2", b"4", b"6", b"8"]
    assert payloads([entry for entry in entries if entry.shard == "1"]) == [b"1", b"3", b"5", b"7", b"9"]


async def test_appends_of_several_processes_are_all_kept(broker: Broker, other: Broker) -> None:
    await fill(broker, "0", 1, 2, producer="one")
    await fill(other, "0", 3, 4, producer="another")
    assert (await broker.ledger("0")).sent == 10


async def test_nothing_crosses_namespaces(backend: Backend, broker: Broker) -> None:
    elsewhere = backend.connect(backend.namespace + "-elsewhere")
    await elsewhere.open(1)
    await fill(broker, "0", 1)
    await own(broker, "0", "worker")
    await broker.heartbeat("worker", "here", LONG_MS, b"")
    await broker.open_replies("here", LONG_MS)
    assert (await elsewhere.ledger("0")).entries == 0
    assert (await elsewhere.leases(["0"]))[0].owner == ""
    assert await elsewhere.members("worker") == []
    assert await elsewhere.settle([], {"here": b"x"}) == ([], 1)
    assert await elsewhere.append("sender", [Append("0", 1, 1, b"x")], ROOM) == [Appended("ok")]


async def test_a_namespace_keeps_the_number_of_shards_it_was_made_with(backend: Backend) -> None:
    assert await backend.connect().open(4) == 4
    assert await backend.connect().open(16) == 4
    assert await backend.connect(backend.namespace + "-elsewhere").open(16) == 16


async def test_ping_tells_the_round_trip(broker: Broker) -> None:
    assert await broker.ping() >= 0.0


async def test_a_gap_at_the_head_of_a_call_is_counted_as_a_rewind_and_one_behind_a_refused_batch_is_not(
    broker: Broker,
) -> None:
    batches = [Append("0", seq, 1, b"x") for seq in (1, 2, 3)]
    assert [done.status for done in await broker.append("p", batches, 0)] == ["busy", "gap", "gap"]
    assert (await broker.ledger("0")).rewinds == 0
    assert [done.status for done in await broker.append("p", batches[1:], ROOM)] == ["gap", "gap"]
    assert (await broker.ledger("0")).rewinds == 1


async def ask(broker: Broker, producer: str, count: int, seq: int = 1) -> str:
    """Append a batch to shard 0, whose limit is 10."""
    ((status, _),) = await broker.append(producer, [Append("0", seq, count, b"x")], 10)
    return status


async def make_room(broker: Broker, lease: Lease, *ids: str) -> None:
    """Settle entries of one message each."""
    assert await settle(broker, lease, *(Outcome(id, 1) for id in ids))


async def filled(broker: Broker) -> tuple[Lease, list[str]]:
    """Shard 0 with ten entries of one message, all that fit; its owner's lease, and their ids."""
    await fill(broker, "0", *[1] * 10, producer="before")
    lease = await own(broker, "0", "worker")
    return lease, [entry.id for entry in await broker.read("worker", ["0"], 10, 0)]


async def test_room_goes_to_producers_in_the_order_in_which_they_were_refused(broker: Broker, other: Broker) -> None:
    lease, ids = await filled(broker)
    for producer, count in (("large", 4), ("small", 1), ("third", 1)):
        assert await ask(broker, producer, count) == "busy"
    # There is room for each of the small ones, but then there would never be enough for the large one.
    await make_room(broker, lease, *ids[:3])
    assert [await ask(other, name, 1) for name in ("third", "small", "newcomer")] == ["busy"] * 3
    assert await ask(broker, "large", 4) == "busy"
    await make_room(broker, lease, ids[3])
    assert await ask(other, "small", 1) == "busy"
    assert await ask(broker, "large", 4) == "ok"
    # It had its turn: for its next batch it is the last.
    assert await ask(broker, "large", 1, seq=2) == "busy"
    await make_room(broker, lease, ids[4])
    assert [await ask(broker, name, 1, seq) for name, seq in (("large", 2), ("third", 1))] == ["busy", "busy"]
    assert [await ask(broker, name, 1) for name in ("small", "third")] == ["ok", "busy"]
    await make_room(broker, lease, ids[5])
    assert await ask(broker, "newcomer", 1) == "busy"
    assert await ask(broker, "third", 1) == "ok"


async def test_whoever_fits_beside_all_that_were_refused_before_need_not_wait(broker: Broker) -> None:
    lease, ids = await filled(broker)
    assert await ask(broker, "first", 2) == "busy"
    await make_room(broker, lease, *ids[:3])
    assert await ask(broker, "second", 1) == "ok"
    assert await ask(broker, "third", 1) == "busy"
    assert await ask(broker, "first", 2) == "ok"


async def test_a_producer_that_asks_no_more_holds_up_the_others_for_a_moment_only(
    backend: Backend, broker: Broker
) -> None:
    lease, ids = await filled(broker)
    assert await ask(broker, "gone", 5) == "busy"
    assert await ask(broker, "second", 1) == "busy"
    await make_room(broker, lease, ids[0])

    async def served() -> bool:
        return await ask(broker, "second", 1) == "ok"

    await backend.until(served)


async def test_a_batch_that_never_fits_holds_up_nobody(broker: Broker) -> None:
    lease, ids = await filled(broker)
    assert await ask(broker, "huge", 11) == "busy"
    await make_room(broker, lease, ids[0])
    assert await ask(broker, "second", 1) == "ok"


async def test_each_shard_has_its_own_line(broker: Broker) -> None:
    await filled(broker)
    assert await ask(broker, "first", 1) == "busy"
    assert await broker.append("second", [Append("1", 1, 1, b"x")], 10) == [Appended("ok")]
