"""Limits of types, workers that take no shards, and resizes: in memory, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from swell import AppError, Cancelled, PlanAborted, UnknownType, WrongBody
from swell.facts.board import SystemFacts
from swell.testing import Fleet, fleet_test
from tests.unit.lifecycle_app import app_of, fresh, log, most, told

__all__ = ["fresh"]


# Limits.


@fleet_test(app_of(concurrency=3))
async def test_no_more_agents_of_a_type_work_at_once_and_all_have_their_turn(fleet: Fleet) -> None:
    await fleet.spawn("one", count=12)
    await fleet.spawn("other", count=12)
    for number in range(3):
        await fleet.client.send_many((f"one/{key:04}", "slow", number) for key in range(12))
        await fleet.client.send_many((f"other/{key:04}", "slow", number) for key in range(12))
    await asyncio.sleep(0.5)
    assert (most["one"], most["other"]) == (3, 12), "other types are not held up"
    states = Counter(view.state for view in await fleet.client.agents("one"))
    assert states == {"working": 3, "waiting": 9}
    log.clear()
    await asyncio.sleep(4)
    assert len(log) == 12 + 3 * 12
    await fleet.quiet()
    assert most["one"] == 3
    order = [key for key, body in log if body == 1]
    assert Counter(order)["0000"] == 2


@fleet_test(app_of(concurrency=4), workers=2)
async def test_the_fleet_s_limit_is_shared_by_its_workers(fleet: Fleet) -> None:
    await asyncio.sleep(5)
    await fleet.spawn("one", count=40)
    await fleet.client.send_many((f"one/{key:04}", "slow", number) for number in range(2) for key in range(40))
    await asyncio.sleep(10)
    assert most["one"] == 4
    await fleet.stop_worker()
    await asyncio.sleep(5)
    most.clear()
    await asyncio.sleep(5)
    assert most["one"] == 4, "who stays takes it all"
    await fleet.quiet()
    assert Counter(body for _, body in log) == {0: 40, 1: 40}


@fleet_test(app_of(rate=10))
async def test_a_rate_is_held_and_order_with_it(fleet: Fleet) -> None:
    await fleet.spawn("one", count=5)
    began = time.monotonic()
    await fleet.client.send_many((f"one/{key:04}", "note", number) for number in range(60) for key in range(5))
    await fleet.client.send("one/0000", "note", 60)
    await asyncio.sleep(10 - (time.monotonic() - began))
    assert 95 <= len(log) <= 102
    assert {len(told(f"{key:04}")) for key in range(5)} <= {19, 20, 21}, "fair among agents"
    await fleet.quiet()
    assert time.monotonic() - began == pytest.approx(30, abs=1.5)
    assert told("0000") == list(range(61))


@fleet_test(app_of(rate=1))
async def test_limits_are_changed_at_run_time_and_kept(fleet: Fleet) -> None:
    await fleet.spawn("one", count=5)
    await fleet.client.send_many((f"one/{key:04}", "note", number) for number in range(200) for key in range(5))
    await asyncio.sleep(5)
    assert len(log) <= 7
    await fleet.client.limit("one", rate=100)
    await fleet.start_worker()
    await fleet.kill_worker()
    log.clear()
    await asyncio.sleep(8)
    assert len(log) > 250
    (type,) = await fleet.client.types()
    assert (type.rate, type.concurrency, type.paused) == (100, None, 0)
    await fleet.client.limit("one", rate=0, concurrency=2)
    await fleet.quiet(within=2)
    await fleet.client.limit("one", reset=True)
    assert await fleet.client.types() == []
    await fleet.client.send_many(("one/0000", "note", number) for number in range(20))
    began = time.monotonic()
    await fleet.quiet()
    assert time.monotonic() - began > 15, "as declared"


@fleet_test(app_of(concurrency=1))
async def test_a_limit_that_is_lifted_gives_each_agent_that_waits_one_turn_at_a_time(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a", "b", "c"])
    await fleet.client.send_many((f"one/{key}", "slow", number) for number in range(4) for key in "abc")
    await asyncio.sleep(0.5)
    await fleet.client.limit("one", concurrency=0)
    await fleet.quiet()
    assert [most[f"one/{key}"] for key in "abc"] == [1, 1, 1]
    assert [told(key) for key in "abc"] == [[0, 1, 2, 3]] * 3


@fleet_test(app_of(rate=0.001))
async def test_a_rate_that_is_raised_holds_at_once(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    await fleet.client.send_many(("one/a", "note", number) for number in range(200))
    await asyncio.sleep(5)
    assert told("a") == [0]
    await fleet.client.limit("one", rate=100)
    await fleet.quiet(within=3)


@fleet_test(app_of(rate=10, concurrency=2))
async def test_a_limited_type_is_paused_drained_and_ended_as_any(fleet: Fleet) -> None:
    await fleet.spawn("one", count=6)
    await fleet.client.send_many((f"one/{key:04}", "slow", number) for number in range(2) for key in range(6))
    await asyncio.sleep(0.5)
    await fleet.client.pause(type="one")
    count = len(log)
    await asyncio.sleep(10)
    assert len(log) == count == 2
    await fleet.client.resume(type="one")
    assert await fleet.client.drain(type="one") == 6
    assert len(log) == 12
    assert most["one"] == 2
    await fleet.client.resume(type="one")
    assert (await fleet.client.terminate(type="one")).terminated == 6
    await fleet.quiet()


@fleet_test(app_of(concurrency=1))
async def test_a_cancelled_message_gives_its_place_back(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a", "b"])
    await fleet.client.send("one/a", "slow", 0)
    await fleet.client.send("one/b", "note", 1, id="x")
    await asyncio.sleep(0.2)
    assert await fleet.client.cancel_message("one/b", "x")
    await fleet.client.send("one/b", "note", 2)
    await fleet.quiet(within=5)
    assert told("b") == [2]


# Workers.


@fleet_test(app_of(), workers=3)
async def test_a_worker_that_is_drained_owns_nothing_until_it_is_resumed(fleet: Fleet) -> None:
    await fleet.spawn("one", count=30)
    await asyncio.sleep(5)
    name = fleet.workers[0]
    await fleet.client.drain(worker=name, reason="a new kernel")
    owners = Counter(lease.owner for lease in await fleet.client.leases() if lease.shard.isdigit())
    assert name not in owners
    await asyncio.sleep(10)
    owners = Counter(lease.owner for lease in await fleet.client.leases() if lease.shard.isdigit())
    assert sorted(owners.values()) == [4, 4]
    assert [info.process for info in await fleet.client.workers() if info.held] == [name]
    for number in range(30):
        assert await fleet.client.ask(f"one/{number:04}", "note", 1) == 1
    await fleet.client.resume(worker=name)
    await asyncio.sleep(10)
    owners = Counter(lease.owner for lease in await fleet.client.leases() if lease.shard.isdigit())
    assert sorted(owners.values()) == [2, 3, 3]


@fleet_test(app_of(), workers=2)
async def test_the_last_worker_is_paused_only_by_force_and_still_hears_of_its_resume(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    first, last = fleet.workers
    with pytest.raises(WrongBody, match="no worker 'nobody' lives"):
        await fleet.client.pause(worker="nobody")
    await fleet.client.pause(worker=first)
    await fleet.client.pause(worker=first)
    with pytest.raises(WrongBody, match="is the last that takes shards"):
        await fleet.client.drain(worker=last)
    await fleet.client.drain(worker=last, force=True)
    await fleet.client.send("one/a", "note", 1)
    await asyncio.sleep(30)
    assert log == []
    await fleet.client.resume(worker=last)
    await fleet.quiet()
    assert told("a") == [1]
    assert fleet.workers == [first, last]


@fleet_test(app_of(), workers=2)
async def test_a_worker_that_neither_lives_nor_is_paused_is_not_resumed(fleet: Fleet) -> None:
    first, last = fleet.workers
    with pytest.raises(WrongBody, match="no worker 'nobody' lives") as wrong:
        await fleet.client.resume(worker="nobody")
    assert wrong.value.detail["field"] == "worker"
    assert await fleet.client.resume(worker=last) == 0
    await fleet.client.drain(worker=first)
    await fleet.kill_worker(first)
    await asyncio.sleep(30)
    assert await fleet.client.resume(worker=first) == 0
    with pytest.raises(WrongBody, match=f"no worker '{first}' lives"):
        await fleet.client.resume(worker=first)


@fleet_test(app_of(), workers=2)
async def test_a_drain_of_a_worker_says_that_it_was_resumed(fleet: Fleet) -> None:
    await fleet.spawn("one", count=20)
    name = (await fleet.client.agents())[0].worker
    await fleet.client.send_many((view.id, "nap", 50.0) for view in await fleet.client.agents())
    await asyncio.sleep(0.5)
    draining = asyncio.ensure_future(fleet.client.drain(worker=name))
    await asyncio.sleep(2)
    await fleet.client.resume(worker=name)
    with pytest.raises(Cancelled, match=f"{name} was resumed meanwhile"):
        await draining


@fleet_test(app_of(), workers=2)
async def test_a_drain_of_a_worker_that_dies_returns_when_its_leases_have_lapsed(fleet: Fleet) -> None:
    await fleet.spawn("one", count=20)
    name = (await fleet.client.agents())[0].worker
    await fleet.client.send_many((view.id, "nap", 50.0) for view in await fleet.client.agents())
    await asyncio.sleep(0.5)
    draining = asyncio.ensure_future(fleet.client.drain(worker=name))
    await asyncio.sleep(0.5)
    assert any(lease.owner == name for lease in await fleet.client.leases())
    await fleet.kill_worker(name)
    assert not draining.done()
    began = time.monotonic()
    assert await draining == 0
    assert time.monotonic() - began < 15
    assert not any(lease.owner == name and lease.remaining_ms for lease in await fleet.client.leases())


@fleet_test(app_of(), workers=2)
async def test_a_fact_of_a_worker_that_cannot_be_read_stops_no_pause(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = fleet.workers
    await SystemFacts(fleet.client.facts).put("$worker/older", "what another release wrote")
    await fleet.client.drain(worker=first)
    assert "`swell resume --worker older` deletes it" in caplog.text
    with pytest.raises(WrongBody, match="is the last that takes shards"):
        await fleet.client.pause(worker=last)
    await fleet.client.resume(worker="older")
    assert [fact.key for fact in await fleet.client.facts.list("$")] == [f"$worker/{first}"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("idle_after", 0),
        ("idle_after", float("nan")),
        ("concurrency", 0),
        ("concurrency", -1),
        ("concurrency", 1.5),
        ("rate", 0),
        ("rate", float("inf")),
        ("quarantine_after", 0),
    ],
)
def test_options_that_cannot_be_are_refused_where_they_are_declared(option: str, value: Any) -> None:
    with pytest.raises(AppError, match=option):
        app_of(**{option: value})


# Resize.


@fleet_test(app_of(), workers=2)
async def test_a_type_grows_and_shrinks_to_a_count_in_waves(fleet: Fleet) -> None:
    plan = await fleet.client.resize("one", 25, wave_size=10)
    last = await plan.wait()
    assert (last.state, last.ready, last.waves, last.ending) == ("done", 25, 3, False)
    again = await (await fleet.client.resize("one", 25)).wait()
    assert (again.state, again.count) == ("done", 0)
    await fleet.client.pause("one/0024")
    await fleet.client.send("one/0023", "slow", 1)
    told_waves = []
    async for progress in await fleet.client.resize("one", 3, wave_size=10, pause=1.0):
        told_waves.append((progress.wave, progress.ready))
    assert (progress.state, progress.count, progress.ready, progress.waves) == ("done", 22, 22, 3)
    assert {(1, 10), (2, 20), (3, 22)} <= set(told_waves)
    assert sorted(view.id for view in await fleet.client.agents("one")) == ["one/0000", "one/0023", "one/0024"]
    assert (await (await fleet.client.resize("one", 0)).wait()).ready == 3
    assert await fleet.client.agents("one") == []
    assert told("0023") == [1]


@fleet_test(app_of(), workers=2)
async def test_held_agents_with_messages_waiting_end_last_or_the_resize_says_at_once_that_they_cannot(
    fleet: Fleet,
) -> None:
    client = fleet.client
    await fleet.spawn("one", count=6)
    await client.pause("one/0004")
    await client.pause("one/0005")
    await client.quarantine(agent="one/0003")
    await client.send_many((f"one/{key:04}", "note", 1) for key in (3, 4, 5))
    began = time.monotonic()
    plan = await client.resize("one", 1, wave_size=1)
    with pytest.raises(PlanAborted, match=r"2 of the 5 agents to end cannot: .* keep at least 3 agents") as aborted:
        await plan.wait()
    assert (aborted.value.ready, aborted.value.failed) == (0, 2)
    assert plan.progress.failures == {"one/0005": "paused, 1 waiting", "one/0004": "paused, 1 waiting"}
    assert len(await client.agents("one")) == 6, "nobody was ended"
    assert (await (await client.resize("one", 3, wave_size=1)).wait()).ready == 3
    assert time.monotonic() - began < 5
    assert sorted(view.id for view in await client.agents("one")) == ["one/0003", "one/0004", "one/0005"]
    await client.resume(type="one", all=True)
    assert (await (await client.resize("one", 1)).wait()).ready == 2
    await fleet.quiet()
    assert sorted(log) == [("0003", 1), ("0004", 1), ("0005", 1)]


@fleet_test(app_of())
async def test_two_resizes_and_a_plan_at_once_come_to_what_was_asked_last(fleet: Fleet) -> None:
    await fleet.client.spawn("one", count=10, wave_size=2, pause=1.0)
    first, second = await asyncio.gather(fleet.client.resize("one", 30), fleet.client.resize("one", 30))
    await asyncio.gather(first.wait(), second.wait())
    assert first.id != second.id
    assert len(await fleet.client.agents("one", limit=1000)) == 30


@fleet_test(app_of())
async def test_a_resize_that_cannot_be_is_told(fleet: Fleet) -> None:
    with pytest.raises(UnknownType):
        await fleet.client.resize("two", 3)
    for wrong in ({"count": -1}, {"count": 200_000}, {"count": 1, "wave_size": 0}):
        with pytest.raises(WrongBody):
            await fleet.client.resize("one", **wrong)
