"""Leases: one owner at a time, an epoch that only grows, and a takeover that reads everything unsettled again."""

from __future__ import annotations

import asyncio

import pytest

from swell.bus.broker import Broker, Lease, LeaseState, Outcome, Partial, Refused
from swell.errors import GroupGone
from tests.conformance.backends import (
    BLOCK_MS,
    LONG_MS,
    SHORT_MS,
    Backend,
    fill,
    lapse,
    own,
    payloads,
    settle,
    take_over,
)

#: 2020-01-01 in microseconds since 1970: a server's clock is behind this only if it is wrong.
YEAR_2020_US = 1_577_836_800_000_000


async def test_a_shard_never_taken_has_no_owner(broker: Broker) -> None:
    assert await broker.leases(["0", "control"]) == [LeaseState("0", "", 0, 0), LeaseState("control", "", 0, 0)]


async def test_a_free_shard_is_granted_and_everybody_can_see_it(broker: Broker, other: Broker) -> None:
    lease = await own(broker, "0", "worker")
    assert (lease.shard, lease.owner) == ("0", "worker")
    (state,) = await other.leases(["0"])
    assert (state.shard, state.owner, state.epoch) == ("0", "worker", lease.epoch)
    assert 0 < state.remaining_ms <= LONG_MS + 1  # Rounded up, from an instant that was rounded.


async def test_an_epoch_is_at_least_the_servers_time_in_microseconds(broker: Broker) -> None:
    assert (await own(broker, "0", "worker")).epoch > YEAR_2020_US


async def test_a_shard_that_is_held_is_refused_with_its_owner_and_the_time_left(broker: Broker, other: Broker) -> None:
    await own(broker, "0", "worker")
    refused = await other.acquire("0", "rival", LONG_MS)
    assert isinstance(refused, Refused)
    assert (refused.shard, refused.owner) == ("0", "worker")
    assert 0 < refused.remaining_ms <= LONG_MS


async def test_an_owner_may_acquire_its_shard_again_under_a_new_epoch(broker: Broker) -> None:
    await fill(broker, "0", 1, 1)
    first = await own(broker, "0", "worker")
    await broker.read("worker", ["0"], 1, 0)
    second = await own(broker, "0", "worker")
    assert second.epoch > first.epoch
    assert second.token != first.token
    assert await broker.renew([first, second], LONG_MS) == [False, True]
    assert payloads(await broker.read("worker", ["0"], 10, 0)) == [b"batch 1", b"batch 2"]


async def test_a_lapsed_shard_is_granted_to_another_under_a_greater_epoch(backend: Backend, broker: Broker) -> None:
    first = await own(broker, "0", "worker", SHORT_MS)
    second = await take_over(backend, broker, "0", "heir")
    assert second.epoch > first.epoch


async def test_a_lapsed_lease_still_names_its_last_owner(backend: Backend, broker: Broker) -> None:
    lease = await own(broker, "0", "worker", SHORT_MS)
    await lapse(backend, broker, "0")
    assert await broker.leases(["0"]) == [LeaseState("0", "worker", lease.epoch, 0)]


async def test_renewing_keeps_others_out(backend: Backend, broker: Broker, other: Broker) -> None:
    lease = await own(broker, "0", "worker", SHORT_MS)
    assert await broker.renew([lease], LONG_MS) == [True]
    assert (await broker.leases(["0"]))[0].remaining_ms > SHORT_MS
    assert isinstance(await other.acquire("0", "rival", LONG_MS), Refused)


async def test_a_lapsed_lease_that_nobody_took_can_be_renewed(backend: Backend, broker: Broker) -> None:
    lease = await own(broker, "0", "worker", SHORT_MS)
    await lapse(backend, broker, "0")
    assert await broker.renew([lease], LONG_MS) == [True]
    assert isinstance(await broker.acquire("0", "rival", LONG_MS), Refused)


async def test_renewing_says_for_each_lease_whether_it_is_still_ours(backend: Backend, broker: Broker) -> None:
    kept = await own(broker, "0", "worker")
    lost = await own(broker, "1", "worker", SHORT_MS)
    released = await own(broker, "2", "worker")
    await take_over(backend, broker, "1", "heir")
    await broker.release(released)
    assert await broker.renew([lost, kept, released], LONG_MS) == [False, True, False]
    assert await broker.renew([], LONG_MS) == []


@pytest.mark.parametrize("wrong", ["epoch", "token"])
async def test_epoch_and_token_must_both_be_right(broker: Broker, wrong: str) -> None:
    lease = await own(broker, "0", "worker")
    forged = lease._replace(epoch=lease.epoch + 1) if wrong == "epoch" else lease._replace(token="guessed")
    assert await broker.renew([forged], LONG_MS) == [False]
    assert await broker.release(forged) is False
    assert await settle(broker, forged) is False
    assert await broker.renew([lease], LONG_MS) == [True]


async def test_a_released_shard_is_free_at_once_and_its_epoch_goes_on(broker: Broker, other: Broker) -> None:
    first = await own(broker, "0", "worker")
    assert await broker.release(first) is True
    (state,) = await other.leases(["0"])
    assert (state.owner, state.remaining_ms) == ("", 0)
    assert (await own(other, "0", "heir")).epoch > first.epoch


async def test_a_release_by_a_zombie_changes_nothing(backend: Backend, broker: Broker, other: Broker) -> None:
    zombie = await own(broker, "0", "worker", SHORT_MS)
    heir = await take_over(backend, other, "0", "heir")
    assert await broker.release(zombie) is False
    assert await other.renew([heir], LONG_MS) == [True]
    assert await other.release(heir) is True
    assert await other.release(heir) is False


async def test_a_takeover_reads_everything_unsettled_again_in_order(
    backend: Backend, broker: Broker, other: Broker
) -> None:
    await fill(broker, "0", 1, 2, 3, 4, 5)
    lease = await own(broker, "0", "worker", SHORT_MS)
    read = await broker.read("worker", ["0"], 4, 0)
    await settle(broker, lease, Outcome(read[1].id, 2))
    await take_over(backend, other, "0", "heir")
    await fill(broker, "0", 6, first=6)
    assert payloads(await other.read("heir", ["0"], 10, 0)) == [b"batch %d" % seq for seq in (1, 3, 4, 5, 6)]


async def test_a_hand_over_by_release_reads_everything_unsettled_again_in_order(broker: Broker, other: Broker) -> None:
    expected = await fill(broker, "0", 1, 1, 1)
    lease = await own(broker, "0", "worker")
    await broker.read("worker", ["0"], 2, 0)
    await broker.release(lease)
    await own(other, "0", "heir")
    assert payloads(await other.read("heir", ["0"], 10, 0)) == expected


async def test_a_read_without_ownership_is_refused(broker: Broker) -> None:
    await fill(broker, "0", 1)
    with pytest.raises(GroupGone):
        await broker.read("worker", ["0"], 10, 0)
    with pytest.raises(GroupGone):
        await broker.pending("worker", "0", "0", 10)


async def test_a_zombies_read_is_refused(backend: Backend, broker: Broker, other: Broker) -> None:
    await fill(broker, "0", 1)
    await own(broker, "0", "worker", SHORT_MS)
    await broker.read("worker", ["0"], 10, 0)
    await take_over(backend, other, "0", "heir")
    with pytest.raises(GroupGone):
        await broker.read("worker", ["0"], 10, 0)
    with pytest.raises(GroupGone):
        await broker.pending("worker", "0", "0", 10)


async def test_a_read_after_release_is_refused(broker: Broker) -> None:
    await broker.release(await own(broker, "0", "worker"))
    with pytest.raises(GroupGone):
        await broker.read("worker", ["0"], 10, 0)


async def test_a_read_that_names_one_lost_shard_is_refused_and_takes_nothing_for_good(broker: Broker) -> None:
    expected = await fill(broker, "0", 1, 1)
    await own(broker, "0", "worker")
    with pytest.raises(GroupGone):
        await broker.read("worker", ["0", "1"], 10, 0)
    again = await broker.pending("worker", "0", "0", 10) + await broker.read("worker", ["0"], 10, 0)
    assert payloads(again) == expected


@pytest.mark.parametrize("how", ["takeover", "release"])
async def test_a_read_that_waits_ends_when_the_shard_goes(
    backend: Backend, broker: Broker, other: Broker, how: str
) -> None:
    lease = await own(broker, "0", "worker", SHORT_MS)
    waiting = asyncio.create_task(broker.read("worker", ["0"], 10, BLOCK_MS))
    await other.ping()
    if how == "takeover":
        await take_over(backend, other, "0", "heir")
    else:
        await other.release(lease)
    with pytest.raises(GroupGone):
        await waiting


async def test_entries_held_by_an_owner_that_lapsed_count_one_delivery_each(
    backend: Backend, broker: Broker, other: Broker
) -> None:
    await fill(broker, "0", 1, 1, 1)
    lease = await own(broker, "0", "worker", SHORT_MS)
    first, second = await broker.read("worker", ["0"], 2, 0)
    assert (await broker.inherit(lease)).deliveries == {}

    lease = await take_over(backend, other, "0", "heir", SHORT_MS)
    assert (await other.inherit(lease)).deliveries == {first.id: 1, second.id: 1}

    await other.read("heir", ["0"], 1, 0)
    lease = await take_over(backend, broker, "0", "second heir")
    assert (await broker.inherit(lease)).deliveries == {first.id: 2, second.id: 1}

    await settle(broker, lease, Outcome(first.id, 1))
    assert (await broker.inherit(lease)).deliveries == {second.id: 1}


async def test_every_entry_of_a_lapsed_owner_is_counted_however_many_it_held(backend: Backend, broker: Broker) -> None:
    await fill(broker, "0", *[1] * 2500)
    await own(broker, "0", "worker", SHORT_MS)
    held = await broker.read("worker", ["0"], 2500, 0)
    lease = await take_over(backend, broker, "0", "heir")
    assert (await broker.inherit(lease)).deliveries == {entry.id: 1 for entry in held}


async def test_entries_held_by_an_owner_that_released_are_not_counted(broker: Broker, other: Broker) -> None:
    await fill(broker, "0", 1)
    lease = await own(broker, "0", "worker")
    await broker.read("worker", ["0"], 10, 0)
    await broker.release(lease)
    assert (await other.inherit(await own(other, "0", "heir"))).deliveries == {}


async def test_entries_held_by_an_owner_that_acquires_again_in_time_are_not_counted(broker: Broker) -> None:
    await fill(broker, "0", 1)
    await own(broker, "0", "worker")
    await broker.read("worker", ["0"], 10, 0)
    assert (await broker.inherit(await own(broker, "0", "worker"))).deliveries == {}


async def test_an_heir_finds_records_and_entries_settled_in_part(
    backend: Backend, broker: Broker, other: Broker
) -> None:
    await fill(broker, "0", 4, 4)
    lease = await own(broker, "0", "worker", SHORT_MS)
    first, second = await broker.read("worker", ["0"], 10, 0)
    bitmap = b"\x01:\x00\x01"
    half = Outcome(first.id, 1, dead=1, expired=1, done=False, letters=[b"letter"], bitmap=bitmap)
    assert await settle(broker, lease, half, **{"echo/1": b"a:\x00record", "echo/2": b""})

    lease = await take_over(backend, other, "0", "heir")
    found = await other.inherit(lease)
    assert found.records == {"echo/1": b"a:\x00record", "echo/2": b""}
    assert found.partial == {first.id: Partial(1, 1, 1, bitmap)}
    assert found.deliveries == {first.id: 1, second.id: 1}

    assert await settle(other, lease, Outcome(first.id, 2, dead=1, expired=1))
    assert (await other.inherit(lease)).partial == {}
    ledger = await other.ledger("0")
    assert (ledger.acked, ledger.dead, ledger.expired, ledger.depth) == (2, 1, 1, 4)


async def test_a_lease_compares_by_what_it_says(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    assert await broker.renew([Lease(*lease)], LONG_MS) == [True]


async def test_a_lease_lasts_no_longer_than_it_was_given_for_when_the_clock_is_set_back(
    backend: Backend, broker: Broker, other: Broker
) -> None:
    lease = await own(broker, "0", "worker", SHORT_MS)
    await backend.set_back(3_600_000)
    refused = await other.acquire("0", "heir", LONG_MS)
    assert isinstance(refused, Refused)
    assert refused.remaining_ms <= SHORT_MS
    assert (await take_over(backend, other, "0", "heir")).epoch > lease.epoch


async def test_a_renewal_after_the_clock_was_set_back_lasts_as_long_as_it_says(
    backend: Backend, broker: Broker, other: Broker
) -> None:
    lease = await own(broker, "0", "worker", SHORT_MS)
    await backend.set_back(3_600_000)
    assert await broker.renew([lease], LONG_MS) == [True]
    refused = await other.acquire("0", "heir", SHORT_MS)
    assert isinstance(refused, Refused)
    assert LONG_MS / 2 < refused.remaining_ms <= LONG_MS
