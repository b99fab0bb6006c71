"""Settle: once, only by the newest owner, and always so that the ledger balances."""

from __future__ import annotations

import pytest

from swell.bus.broker import Append, Appended, Broker, Lease, Ledger, Outcome, Settlement
from tests.conformance.backends import LONG_MS, SHORT_MS, Backend, fill, lapse, own, payloads, settle, take_over


def account(ledger: Ledger) -> tuple[int, int, int, int, int]:
    return ledger.sent, ledger.acked, ledger.dead, ledger.expired, ledger.depth


async def letters(broker: Broker, shard: str = "0") -> list[bytes]:
    return [letter for _, letter in await broker.dead(shard, 100)]


async def test_a_settled_entry_is_gone_and_accounted_for(broker: Broker) -> None:
    await fill(broker, "0", 6, 1)
    lease = await own(broker, "0", "worker")
    first, second = await broker.read("worker", ["0"], 10, 0)
    assert await settle(broker, lease, Outcome(first.id, 3, dead=2, expired=1, letters=[b"one", b"two"]))
    ledger = await broker.ledger("0")
    assert account(ledger) == (7, 3, 2, 1, 1)
    assert (ledger.present, ledger.entries, ledger.stale, ledger.foreign) == (1, 1, 0, 0)
    assert await broker.pending("worker", "0", "0", 10) == [second]


async def test_one_call_settles_entries_of_many_shards(broker: Broker) -> None:
    settlements = []
    for shard in ("0", "1", "2"):
        await fill(broker, shard, 2, 2, 2)
        lease = await own(broker, shard, "worker")
        entries = await broker.read("worker", [shard], 10, 0)
        settlements.append(Settlement(lease, [Outcome(e.id, 2) for e in entries[:2]], {f"echo/{shard}": b"record"}))
    assert await broker.settle(settlements) == ([True, True, True], 0)
    for shard in ("0", "1", "2"):
        assert account(await broker.ledger(shard)) == (6, 4, 0, 0, 2)
        assert await broker.records(shard) == {f"echo/{shard}": b"record"}


async def test_settling_nothing_is_allowed(broker: Broker) -> None:
    assert await broker.settle([]) == ([], 0)
    assert await settle(broker, await own(broker, "0", "worker"))


async def test_an_entry_settled_in_part_stays_and_the_rest_is_settled_later(broker: Broker) -> None:
    await fill(broker, "0", 4)
    lease = await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    seen = []
    for acked, dead, done in ((1, 0, False), (1, 1, False), (2, 1, False), (3, 1, True)):
        new = [b"letter"] if (acked, dead) == (1, 1) else []
        assert await settle(broker, lease, Outcome(entry.id, acked, dead=dead, done=done, letters=new, bitmap=b"\1\0"))
        ledger = await broker.ledger("0")
        seen.append((ledger.acked, ledger.dead, ledger.depth, ledger.present, ledger.entries))
    assert seen == [(1, 0, 3, 3, 1), (1, 1, 2, 2, 1), (2, 1, 1, 1, 1), (3, 1, 0, 0, 0)]
    assert await letters(broker) == [b"letter"]
    assert (await broker.inherit(lease)).partial == {}


@pytest.mark.parametrize("done", [True, False])
async def test_a_settle_repeated_changes_nothing(broker: Broker, done: bool) -> None:
    await fill(broker, "0", 6)
    lease = await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    outcome = Outcome(entry.id, 3, dead=1, expired=2 if done else 1, done=done, letters=[b"letter"], bitmap=b"\1" * 6)
    assert await settle(broker, lease, outcome, **{"echo/1": b"record"})
    before = await broker.ledger("0"), await broker.dead("0", 10), await broker.inherit(lease)
    assert await settle(broker, lease, outcome, **{"echo/1": b"record"})
    assert (await broker.ledger("0"), await broker.dead("0", 10), await broker.inherit(lease)) == before


async def test_one_entry_settled_twice_in_one_call_is_settled_once(broker: Broker) -> None:
    await fill(broker, "0", 4)
    lease = await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    half = Outcome(entry.id, 1, dead=1, done=False, letters=[b"letter"], bitmap=b"\1\1\0\0")
    whole = Outcome(entry.id, 3, dead=1, letters=[b"letter"])
    assert await settle(broker, lease, half, whole, whole)
    assert account(await broker.ledger("0")) == (4, 3, 1, 0, 0)
    assert await letters(broker) == [b"letter"]


@pytest.mark.parametrize("done", [True, False])
async def test_an_entry_that_does_not_exist_is_passed_over_with_its_letters(broker: Broker, done: bool) -> None:
    await fill(broker, "0", 1)
    lease = await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    gone = Outcome("1-1", 1, dead=3, done=done, letters=[b"letter"], bitmap=b"\1")
    assert await settle(broker, lease, gone, Outcome(entry.id, 1))
    assert account(await broker.ledger("0")) == (1, 1, 0, 0, 0)
    assert await letters(broker) == []
    assert (await broker.inherit(lease)).partial == {}


async def test_letters_are_written_only_when_more_messages_are_dead(broker: Broker) -> None:
    await fill(broker, "0", 3)
    lease = await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    await settle(broker, lease, Outcome(entry.id, 0, dead=1, done=False, letters=[b"first"], bitmap=b"\1\0\0"))
    await settle(broker, lease, Outcome(entry.id, 1, dead=1, done=False, letters=[b"first"], bitmap=b"\1\1\0"))
    await settle(broker, lease, Outcome(entry.id, 1, dead=2, letters=[b"second"]))
    assert await letters(broker) == [b"second", b"first"]


async def test_dead_letters_are_shown_newest_first(broker: Broker) -> None:
    await fill(broker, "0", *[1] * 5)
    lease = await own(broker, "0", "worker")
    for entry in await broker.read("worker", ["0"], 10, 0):
        await settle(broker, lease, Outcome(entry.id, 0, dead=1, letters=[entry.payload]))
    newest = await broker.dead("0", 2)
    assert [letter for _, letter in newest] == [b"batch 5", b"batch 4"]
    assert newest == (await broker.dead("0", 100))[:2]
    assert len(await broker.dead("0", 100)) == 5
    assert await broker.dead("1", 100) == []


async def test_only_the_newest_dead_letters_are_kept(broker: Broker) -> None:
    await fill(broker, "0", *[100] * 120)
    lease = await own(broker, "0", "worker")
    written: list[bytes] = []
    for entry in await broker.read("worker", ["0"], 120, 0):
        letters = [b"%s/%d" % (entry.payload, n) for n in range(100)]
        await settle(broker, lease, Outcome(entry.id, 0, dead=100, letters=letters))
        written += letters
    kept = [letter for _, letter in await broker.dead("0", 20_000)]
    # Redis trims by whole nodes of the stream, 100 entries by default.
    assert 10_000 <= len(kept) <= 10_100
    assert kept == written[: -len(kept) - 1 : -1]
    assert account(await broker.ledger("0")) == (12_000, 0, 12_000, 0, 0)


async def zombie_and_heir(backend: Backend, broker: Broker, other: Broker) -> tuple[Lease, Lease, str]:
    """An owner that was overtaken, its heir, and the entry that the zombie still holds."""
    await fill(broker, "0", 2)
    zombie = await own(broker, "0", "worker", SHORT_MS)
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    return zombie, await take_over(backend, other, "0", "heir"), entry.id


@pytest.mark.parametrize("done", [True, False])
async def test_a_zombies_settle_is_refused_and_counted_and_writes_nothing(
    backend: Backend, broker: Broker, other: Broker, done: bool
) -> None:
    zombie, heir, id = await zombie_and_heir(backend, broker, other)
    await settle(other, heir, **{"echo/1": b"new"})
    outcome = Outcome(id, 1, dead=1, done=done, letters=[b"letter"], bitmap=b"\1\1")
    assert not await settle(broker, zombie, outcome, **{"echo/1": b"old", "echo/2": b"old"})
    ledger = await other.ledger("0")
    assert account(ledger) == (2, 0, 0, 0, 2)
    assert (ledger.stale, ledger.entries) == (1, 1)
    assert await letters(other) == []
    assert await other.records("0") == {"echo/1": b"new"}
    assert (await other.inherit(heir)).partial == {}
    assert len(await other.read("heir", ["0"], 10, 0)) == 1


async def test_a_zombie_that_owns_the_shard_again_still_cannot_use_its_old_lease(
    backend: Backend, broker: Broker
) -> None:
    await fill(broker, "0", 1)
    old = await own(broker, "0", "worker", SHORT_MS)
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    new = await take_over(backend, broker, "0", "worker")
    assert not await settle(broker, old, Outcome(entry.id, 1))
    assert await settle(broker, new, Outcome(entry.id, 1))


async def test_one_stale_shard_does_not_spoil_the_others_of_the_call(
    backend: Backend, broker: Broker, other: Broker
) -> None:
    zombie, _, id = await zombie_and_heir(backend, broker, other)
    await fill(broker, "1", 2)
    lease = await own(broker, "1", "worker")
    (entry,) = await broker.read("worker", ["1"], 10, 0)
    stale = Settlement(zombie, [Outcome(id, 2, letters=[b"x", b"y"])], {"a/1": b"x", "a/2": None})
    assert await broker.settle([stale, Settlement(lease, [Outcome(entry.id, 2)]), stale]) == ([False, True, False], 0)
    assert (await broker.ledger("0")).stale == 2
    assert account(await broker.ledger("1")) == (2, 2, 0, 0, 0)


async def test_nothing_can_be_settled_after_release(broker: Broker) -> None:
    await fill(broker, "0", 1)
    lease = await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    await broker.release(lease)
    assert not await settle(broker, lease, Outcome(entry.id, 1))
    assert (await broker.ledger("0")).stale == 1


async def test_a_lapsed_owner_may_settle_until_another_takes_the_shard(backend: Backend, broker: Broker) -> None:
    await fill(broker, "0", 1)
    lease = await own(broker, "0", "worker", SHORT_MS)
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    await lapse(backend, broker, "0")
    assert await settle(broker, lease, Outcome(entry.id, 1))
    assert account(await broker.ledger("0")) == (1, 1, 0, 0, 0)


async def test_a_strangers_entry_is_counted_as_foreign_and_leaves_the_account_alone(
    backend: Backend, broker: Broker
) -> None:
    await fill(broker, "0", 1)
    id = await backend.inject("0", {"b": b"anything"})
    ledger = await broker.ledger("0")
    assert (ledger.present, ledger.entries, ledger.balanced) == (1, 2, True)
    lease = await own(broker, "0", "worker")
    await broker.read("worker", ["0"], 10, 0)
    for _ in range(2):
        assert await settle(broker, lease, Outcome(id, 0, letters=[b"letter"]))
        ledger = await broker.ledger("0")
        assert account(ledger) == (1, 0, 0, 0, 1)
        assert (ledger.foreign, ledger.entries) == (1, 1)
        assert await letters(broker) == [b"letter"]


@pytest.mark.parametrize("n", [b"-5", b"1e3", b"0x10", b"abc", b"", b"9" * 400, b"0"])
async def test_a_strangers_entry_with_a_false_count_does_not_upset_the_ledger(
    backend: Backend, broker: Broker, n: bytes
) -> None:
    id = await backend.inject("0", {"n": n, "b": b"anything"})
    assert (await broker.ledger("0")).present == 0
    lease = await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    assert (entry.count, entry.payload) == (0, b"anything")
    assert await settle(broker, lease, Outcome(id, 0, letters=[b"letter"]))
    assert account(await broker.ledger("0")) == (0, 0, 0, 0, 0)


async def test_records_are_set_and_deleted(broker: Broker, other: Broker) -> None:
    lease = await own(broker, "0", "worker")
    await settle(broker, lease, **{"echo/1": b"one", "echo/2": b"two", "echo/3": b""})
    await settle(broker, lease, **{"echo/1": b"\x00new:\xff", "echo/2": None, "echo/4": None})
    assert await other.records("0") == {"echo/1": b"\x00new:\xff", "echo/3": b""}
    assert await other.record("0", "echo/1") == b"\x00new:\xff"
    assert await other.record("0", "echo/2") is None
    assert await other.records("1") == {}


async def test_records_outlive_their_owner(backend: Backend, broker: Broker, other: Broker) -> None:
    lease = await own(broker, "0", "worker", SHORT_MS)
    await settle(broker, lease, **{"echo/1": b"one"})
    lease = await take_over(backend, other, "0", "heir")
    assert (await other.inherit(lease)).records == {"echo/1": b"one"}


async def test_settling_makes_room_for_senders(broker: Broker) -> None:
    await fill(broker, "0", 10)
    assert await broker.append("sender", [Append("0", 2, 1, b"x")], 10) == [Appended("busy", 10)]
    lease = await own(broker, "0", "worker", LONG_MS)
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    await settle(broker, lease, Outcome(entry.id, 1, done=False, bitmap=b"\1" + b"\0" * 9))
    assert await broker.append("sender", [Append("0", 2, 1, b"x")], 10) == [Appended("ok")]
    assert payloads(await broker.read("worker", ["0"], 10, 0)) == [b"x"]


async def test_a_settle_that_comes_late_undoes_nothing_of_a_later_one(broker: Broker) -> None:
    await fill(broker, "0", 4)
    lease = await own(broker, "0", "worker")
    (entry,) = await broker.read("worker", ["0"], 10, 0)
    early = Settlement(lease, [Outcome(entry.id, 1, done=False, bitmap=b"\1\0\0\0")], {"a/1": b"old", "a/2": b"old"}, 1)
    later = Settlement(lease, [Outcome(entry.id, 2, done=False, bitmap=b"\1\1\0\0")], {"a/1": b"new", "a/2": None}, 2)
    for settlement in (early, later, early, later):
        assert await broker.settle([settlement]) == ([True], 0)
    assert await broker.records("0") == {"a/1": b"new"}
    assert account(await broker.ledger("0")) == (4, 2, 0, 0, 2)
    assert (await broker.inherit(lease)).partial[entry.id].bitmap == b"\1\1\0\0"


async def test_each_lease_numbers_its_settles_anew(broker: Broker) -> None:
    for value in (b"first", b"second"):
        lease = await own(broker, "0", "worker")
        assert await broker.settle([Settlement(lease, [], {"a/1": value}, 1)]) == ([True], 0)
        assert await broker.records("0") == {"a/1": value}


async def test_a_settle_that_comes_late_in_a_call_holds_up_no_other_shard(broker: Broker) -> None:
    first, second = await own(broker, "0", "worker"), await own(broker, "1", "worker")
    await broker.settle([Settlement(first, [], {"a/1": b"new"}, 7)])
    late = Settlement(first, [Outcome("1-1", 1, dead=1, letters=[b"x"])], {"a/1": b"old", "a/2": None}, 6)
    assert await broker.settle([late, Settlement(second, [], {"b/1": b"b"}, 1)]) == ([True, True], 0)
    assert (await broker.records("0"), await broker.records("1")) == ({"a/1": b"new"}, {"b/1": b"b"})
