"""Leases among several processes: shares converge, newcomers disturb nothing, and who slept through his lease stops."""

from __future__ import annotations

import asyncio

import pytest

from swell.bus import leases
from swell.errors import BrokerUnavailable
from tests.unit.brokers import NO_WAIT
from tests.unit.test_consumer import bench_of

LEASE_MS = 20_000
#: Longer than any test takes, seconds.
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def quick_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_AGAIN", NO_WAIT)
    monkeypatch.setattr(leases, "MOST_TICK_S", 0.005)
    monkeypatch.setattr(leases, "MISSING_TICK_S", 0.001)


@pytest.mark.parametrize("members", [1, 2, 3, 5])
@pytest.mark.parametrize("shards", [1, 2, 8, 16])
async def test_shares_converge_as_members_come_and_go(members: int, shards: int) -> None:
    async with bench_of() as b:
        processes = []
        for joined in range(1, members + 1):
            processes.append(b.start(shards=shards, lease_ms=LEASE_MS))
            shares = [shards // joined + (place < shards % joined) for place in range(joined)]
            await b.until_shared(shards, [share for share in shares if share])
        for left in range(1, members):
            await processes[left - 1].leave()
            remain = members - left
            shares = [shards // remain + (place < shards % remain) for place in range(remain)]
            await b.until_shared(shards, [share for share in shares if share])
        assert all(process.host.lost_shards == [] for process in processes)


async def test_a_newcomer_does_not_take_leadership() -> None:
    async with bench_of() as b:
        first = b.start(lease_ms=LEASE_MS)
        await first.broker.called("renew", 1)
        epoch = first.consumer.owned["0"].lease.epoch
        others = [b.start(lease_ms=LEASE_MS) for _ in range(3)]
        for other in others:
            await other.broker.called("heartbeat", 5)
        await first.broker.called("heartbeat", first.broker.calls["heartbeat"] + 5)
        assert first.consumer.owned["0"].lease.epoch == epoch
        assert all(other.consumer.ready()[0] for other in others)


async def test_messages_are_handled_once_while_shards_are_shared_out() -> None:
    async with bench_of() as b:
        processes = [b.start(shards=4, lease_ms=LEASE_MS)]
        for turn in range(40):
            for shard in range(4):
                await b.send(1, shard=str(shard))
            if turn in (10, 20):
                processes.append(b.start(shards=4, lease_ms=LEASE_MS))
        await b.until_shared(4, [1, 1, 2])
        for shard in range(4):
            await b.until_empty(str(shard))
        seen = [body for process in processes for body in process.host.seen]
        assert sorted(seen) == list(range(480))


async def test_who_slept_through_his_lease_has_it_again_if_nobody_took_it_and_loses_it_if_somebody_did() -> None:
    async with bench_of() as b:
        sleeper = b.start(lease_ms=LEASE_MS)
        await sleeper.broker.called("renew", 1)
        shard = sleeper.consumer.owned["0"]
        shard.trusted_until_ns = 0  # As after SIGSTOP and SIGCONT: our clock is past it, the server's too.
        await sleeper.broker.called("renew", sleeper.broker.calls.get("renew", 0) + 2)
        await b.send(1)
        await b.until_empty()
        assert sleeper.host.seen == [0, 1, 2]
        sleeper.broker.gates["heartbeat"] = asyncio.Event()  # It sleeps again, and this time another takes its shard.
        owned = sleeper.consumer.owned["0"]
        await b.broker.release(owned.lease)
        taken = await b.broker.acquire("0", "another", LEASE_MS)
        sleeper.broker.gates.pop("heartbeat").set()
        await sleeper.host.until(lambda: bool(sleeper.host.lost_shards))
        assert not owned.reading
        assert (await b.broker.leases(["0"]))[0].epoch == taken.epoch  # type: ignore[union-attr]


async def test_a_server_that_comes_and_goes_costs_no_lease() -> None:
    async with bench_of() as b:
        process = b.start(shards=4, lease_ms=LEASE_MS)
        await process.broker.called("renew", 1)
        for method in ("heartbeat", "renew"):
            process.broker.faults[method] = [BrokerUnavailable("away"), "lost", None, "lost"]
        await process.broker.called("renew", process.broker.calls["renew"] + 6)
        assert process.host.lost_shards == []
        assert process.consumer.ready() == (True, "owns 4 of 4 shards")


async def test_a_server_whose_clock_is_set_ahead_costs_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench_of() as b:
        one, other = (b.start(shards=4, lease_ms=LEASE_MS) for _ in range(2))
        await b.until_shared(4, [2, 2])
        epochs = {shard: owned.lease.epoch for shard, owned in other.consumer.owned.items()}
        # Silent are those that do not beat for two of these.
        monkeypatch.setattr(leases, "MOST_TICK_S", 2.0)
        other.broker.gates["heartbeat"] = asyncio.Event()
        await other.broker.called("heartbeat", other.broker.calls["heartbeat"] + 1)
        b.clock.pass_ms(3_600_000)
        one.consumer.lost(one.consumer.owned["0"])  # It ticks now, and often: it misses a shard.
        await one.broker.called("heartbeat", one.broker.calls["heartbeat"] + 4)
        other.broker.gates.pop("heartbeat").set()
        await b.until_shared(4, [2, 2])
        assert {shard: owned.lease.epoch for shard, owned in other.consumer.owned.items()} == epochs
        assert other.host.lost_shards == []


async def test_the_shards_of_a_process_that_died_are_taken_though_the_servers_clock_was_set_back() -> None:
    async with bench_of() as b:
        dead, heir = (b.start(shards=4, lease_ms=LEASE_MS) for _ in range(2))
        await b.until_shared(4, [2, 2])
        assert dead.ended is not None
        dead.ended.cancel()
        await asyncio.wait({dead.ended})
        b.clock.pass_ms(-3_600_000)
        passed_ms = 0
        while len(heir.consumer.owned) < 4:
            assert passed_ms < 3 * LEASE_MS
            b.clock.pass_ms(LEASE_MS // 20)
            passed_ms += LEASE_MS // 20
            await heir.broker.called("heartbeat", heir.broker.calls["heartbeat"] + 2)


async def test_a_process_that_has_just_come_does_not_believe_the_servers_clock_alone() -> None:
    async with bench_of() as b:
        await b.broker.acquire("0", "owner", LEASE_MS)
        b.clock.pass_ms(LEASE_MS + 1)
        one = b.start(lease_ms=LEASE_MS)
        await one.broker.called("heartbeat", 1)
        assert not one.consumer.owned
        await b.until_shared(1, [1])
        await one.host.until(lambda: bool(one.consumer.owned))


async def test_a_shard_that_a_living_process_lost_and_has_no_room_for_is_taken_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bench_of() as b:
        one = b.start(shards=4, lease_ms=LEASE_MS)
        await one.broker.called("renew", 1)
        monkeypatch.setattr(leases, "MOST_TICK_S", PATIENCE_S)  # Nobody is silent here.
        one.broker.gates["heartbeat"] = asyncio.Event()
        await one.broker.called("heartbeat", one.broker.calls.get("heartbeat", 0) + 1)
        one.consumer.lost(one.consumer.owned["0"])
        b.clock.pass_ms(LEASE_MS + 1)
        other = b.start(shards=4, lease_ms=LEASE_MS)
        await other.broker.called("heartbeat", 2)
        one.broker.gates.pop("heartbeat").set()  # Its share is two of the three that it still has.
        beats = 0
        while len(other.consumer.owned) < 2:
            one.consumer._keeper.look_now()
            beats += 1
            assert beats < 100, await b.broker.leases([str(n) for n in range(4)])
            await other.broker.called("heartbeat", other.broker.calls["heartbeat"] + 1)
        assert len(one.consumer.owned) == 2
        assert one.host.lost_shards == ["0"]
