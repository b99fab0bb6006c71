"""Trials: which messages of an entry that owners died with were handled alone, and by how many."""

from __future__ import annotations

from swell.bus.broker import Broker, Outcome
from tests.conformance.backends import SHORT_MS, Backend, fill, own, settle, take_over


async def test_a_trial_counts_once_for_each_owner_however_often_it_is_noted(
    backend: Backend, broker: Broker, other: Broker
) -> None:
    await fill(broker, "0", 3)
    await own(broker, "0", "worker", SHORT_MS)
    (entry,) = await broker.read("worker", ["0"], 1, 0)
    second = await take_over(backend, other, "0", "second", SHORT_MS)
    assert await other.trial(second, entry.id, 1) == 1
    assert await other.trial(second, entry.id, 1) == 1
    assert await other.trial(second, entry.id, 2) == 1
    await other.read("second", ["0"], 1, 0)

    third = await take_over(backend, broker, "0", "third", SHORT_MS)
    assert await broker.trial(third, entry.id, 1) == 2
    assert await broker.trial(third, entry.id, 0) == 1
    assert (await broker.inherit(third)).deliveries == {entry.id: 2}


async def test_a_trial_that_is_taken_back_does_not_count(backend: Backend, broker: Broker, other: Broker) -> None:
    await fill(broker, "0", 20)
    await own(broker, "0", "worker", SHORT_MS)
    (entry,) = await broker.read("worker", ["0"], 1, 0)
    second = await take_over(backend, other, "0", "second", SHORT_MS)
    for index in (1, 11, 12):
        assert await other.trial(second, entry.id, index) == 1
    assert await other.trial(second, entry.id, 1, begin=False) == 0
    assert await other.trial(second, entry.id, 1, begin=False) == 0
    assert await other.trial(second, entry.id, 5, begin=False) == 0

    third = await take_over(backend, broker, "0", "third")
    assert [await broker.trial(third, entry.id, index) for index in (1, 11, 12)] == [1, 2, 2]
    assert await broker.trial(third, entry.id, 11, begin=False) == 1


async def test_nothing_is_noted_of_an_entry_that_nobody_died_with_or_that_is_settled(
    backend: Backend, broker: Broker, other: Broker
) -> None:
    await fill(broker, "0", 1, 1)
    await own(broker, "0", "worker", SHORT_MS)
    (first,) = await broker.read("worker", ["0"], 1, 0)
    lease = await take_over(backend, other, "0", "heir")
    second = (await other.read("heir", ["0"], 2, 0))[1]
    assert await other.trial(lease, second.id, 0) == 0
    assert await other.trial(lease, first.id, 0) == 1
    await settle(other, lease, Outcome(first.id, 1))
    assert await other.trial(lease, first.id, 0) == 0
    assert (await other.inherit(lease)).deliveries == {}


async def test_a_zombie_notes_no_trial(backend: Backend, broker: Broker, other: Broker) -> None:
    await fill(broker, "0", 1)
    zombie = await own(broker, "0", "worker", SHORT_MS)
    (entry,) = await broker.read("worker", ["0"], 1, 0)
    lease = await take_over(backend, other, "0", "heir")
    assert await broker.trial(zombie, entry.id, 0) == -1
    assert await other.trial(lease, entry.id, 0) == 1
