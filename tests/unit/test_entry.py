"""What is known of one entry: which messages ended, what may be told, and what is still held in memory."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from swell.bus.broker import Inheritance, Lease, Partial
from swell.bus.shard import OwnedShard
from swell.histogram import Histogram


def shard_of(partial: dict[str, Partial] | None = None) -> OwnedShard:
    return OwnedShard(Lease("0", "me", 1, "t"), Inheritance({}, partial or {}, {}), 1 << 62, asyncio.Event())


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_it_can_be_settled_once_when_all_its_messages_ended_in_any_order(deaths: list[bool], chance: object) -> None:
    shard = shard_of()
    entry = shard.opened("1-0", len(deaths), 100, 0)
    order = list(range(len(deaths)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    letters = []
    for place, index in enumerate(order):
        assert shard.done == []
        assert entry.half_settled == (place > 0)
        if deaths[index]:
            letters.append(b"%d" % index)
            entry.kill(index, letters[-1])
        else:
            entry.ack(index)
    assert shard.done == [entry]
    assert shard.held_bytes == 0
    outcome = entry.outcome()
    assert (outcome.acked, outcome.dead, outcome.done) == (deaths.count(False), deaths.count(True), True)
    assert (outcome.letters, outcome.bitmap) == (letters, b"")


def test_a_half_is_told_once_until_more_has_ended_and_its_letters_only_once() -> None:
    shard = shard_of()
    entry = shard.opened("1-0", 3, 100, 0)
    entry.kill(1, b"letter")
    first = entry.outcome()
    assert (first.dead, first.letters, first.bitmap, first.done) == (1, [b"letter"], b"\0\1\0", False)
    assert entry.take_marks() == []
    assert not entry.half_settled
    entry.ack(0)
    assert entry.half_settled
    second = entry.outcome()
    assert (second.acked, second.dead, second.letters, second.bitmap) == (1, 1, [], b"\1\1\0")


def test_it_goes_on_from_what_its_former_owner_had_settled() -> None:
    shard = shard_of({"1-0": Partial(1, 1, 0, b"\1\0\1\0")})
    entry = shard.opened("1-0", 4, 100, 0)
    assert (entry.left, bytes(entry.flags), entry.half_settled) == (2, b"\1\0\1\0", False)
    entry.ack(1)
    entry.ack(3)
    outcome = entry.outcome()
    assert (outcome.acked, outcome.dead, outcome.done) == (3, 1, True)


def test_bytes_that_are_no_batch_are_given_up_whole_with_one_letter() -> None:
    for count in (0, 5):
        shard = shard_of()
        shard.opened("1-0", count, 100, 0).kill_all(b"letter")
        (entry,) = shard.done
        outcome = entry.outcome()
        assert (outcome.acked, outcome.dead, outcome.letters, outcome.done) == (0, count, [b"letter"], True)


def test_parked_messages_hold_no_bytes_until_they_are_fetched_again() -> None:
    shard = shard_of()
    entry = shard.opened("1-0", 3, 100, 0)
    entry.parked = 2
    assert shard.held_bytes == 100
    entry.ack(0)
    assert (shard.held_bytes, shard.done) == (0, [])
    entry.parked = 1
    shard.held(entry, 100)
    entry.ack(1)
    assert shard.held_bytes == 0
    entry.parked = 0
    shard.held(entry, 100)
    entry.ack(2)
    assert (shard.held_bytes, shard.done) == (0, [entry])


def test_latency_is_told_with_the_settlement_of_the_whole_entry() -> None:
    shard = shard_of()
    histogram = Histogram()
    entry = shard.opened("1-0", 2, 100, 0)
    entry.mark(histogram, 5, 2)
    entry.ack(0)
    assert entry.take_marks() == []
    entry.ack(1)
    assert entry.take_marks() == [(histogram, 5, 2)]
    assert entry.take_marks() == []
