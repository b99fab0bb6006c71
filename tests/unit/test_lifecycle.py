"""Agents let go, held back, drained, limited and set apart: in memory, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

from swell import Agent, App, AppError, CallTimeout, Cancelled, UnknownAgent, UnknownType, WrongBody, field, handler
from swell.errors import HandlerFailed
from swell.holds import TYPE_PREFIX
from swell.testing import Fleet, fleet_test

log: list[tuple[str, int]] = []
hooks: list[tuple[str, str]] = []
running: Counter[str] = Counter()
most: Counter[str] = Counter()
trouble: list[BaseException] = []


class Kept(msgspec.Struct):
    count: int = 0
    rests: int = 0


class One(Agent):
    state: Kept

    async def started(self) -> None:
        hooks.append(("started", self.key))

    async def passivated(self) -> None:
        self.state.rests += 1
        hooks.append(("passivated", self.key))
        if trouble:
            raise trouble[0]
        await asyncio.sleep(0.5)

    @handler
    async def note(self, body: int) -> int:
        self.state.count += 1
        log.append((self.key, body))
        return self.state.count

    @handler
    async def slow(self, body: int) -> None:
        for what in (self.id, self.id.partition("/")[0]):
            running[what] += 1
            most[what] = max(most[what], running[what])
        try:
            await asyncio.sleep(1.0)
        finally:
            running.subtract((self.id, self.id.partition("/")[0]))
        log.append((self.key, body))

    @handler
    async def fail(self) -> None:
        raise ValueError("bad")

    @handler
    async def rests(self) -> int:
        return self.state.rests

    @handler
    async def pause_me(self, body: int) -> None:
        await self.pause("I want to")
        log.append((self.key, body))


def app_of(**options: Any) -> App:
    app = App("tests")
    app.agent("one", max_attempts=1, **options)(One)
    app.agent("other", max_attempts=1)(One)
    return app


@pytest.fixture(autouse=True)
def fresh() -> None:
    for one in (log, hooks, trouble, running, most):
        one.clear()


async def state(fleet: Fleet, id: str) -> str:
    return next(view.state for view in await fleet.client.agents(limit=1000) if view.id == id)


def told(key: str) -> list[int]:
    return [body for one, body in log if one == key]


# Passivation.


@fleet_test(app_of(idle_after=10))
async def test_an_idle_agent_is_let_go_and_the_next_message_starts_it_anew(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a", "b"])
    await fleet.spawn("other", keys=["a"])
    await fleet.client.ask("one/a", "note", 1)
    await asyncio.sleep(9)
    assert await fleet.client.ask("one/b", "note", 1) == 1
    await asyncio.sleep(5)
    assert hooks == [("started", "a"), ("started", "b"), ("started", "a"), ("passivated", "a")]
    assert (await state(fleet, "one/a"), await state(fleet, "one/b")) == ("passive", "idle")
    assert await fleet.client.ask("one/a", "note", 2) == 2, "its kept state is there"
    assert hooks[-1] == ("started", "a")
    (view,) = [view for view in await fleet.client.agents("one") if view.id == "one/a"]
    assert (view.state, view.restarts) == ("idle", 0), "it is no restart"
    await asyncio.sleep(3600)
    assert await state(fleet, "other/a") == "ready"
    assert await fleet.client.ask("one/a", "rests") == 2, "what the hook makes of the state is kept"


@fleet_test(app_of(idle_after=10))
async def test_messages_that_come_while_an_agent_leaves_are_handled_by_the_next_instance_in_order(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    await asyncio.sleep(10.2)
    assert hooks == [("started", "a"), ("passivated", "a")], "it is leaving now"
    await fleet.client.send_many(("one/a", "note", number) for number in range(100))
    await asyncio.sleep(0.1)
    assert log == []
    await fleet.quiet()
    assert told("a") == list(range(100))
    assert hooks == [("started", "a"), ("passivated", "a"), ("started", "a")]


@fleet_test(app_of(idle_after=10))
async def test_a_hook_that_fails_or_hangs_keeps_no_agent(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    trouble.append(RuntimeError("cannot let go"))
    await asyncio.sleep(12)
    assert await state(fleet, "one/a") == "passive"
    assert await fleet.client.ask("one/a", "note", 1) == 1
    assert await fleet.client.ask("one/a", "rests") == 0, "a state that a failed hook made is not kept"


@fleet_test(app_of(idle_after=10))
async def test_a_takeover_starts_no_passive_agent_until_it_gets_a_message(fleet: Fleet) -> None:
    await fleet.spawn("one", count=50)
    await fleet.client.ask("one/0001", "note", 1)
    await asyncio.sleep(20)
    hooks.clear()
    await fleet.start_worker()
    await fleet.kill_worker()
    await asyncio.sleep(30)
    assert hooks == []
    assert await state(fleet, "one/0001") == "passive"
    assert await fleet.client.ask("one/0001", "note", 2) == 2
    assert hooks == [("started", "0001")]


@fleet_test(app_of(idle_after=10, warm=1))
async def test_a_passive_agent_ends_without_being_lost(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    await asyncio.sleep(20)
    assert (await fleet.client.terminate("one/a")).terminated == 1
    with pytest.raises(UnknownAgent):
        await fleet.client.ask("one/a", "note", 1)


# Pause and resume.


@fleet_test(app_of())
async def test_a_paused_agent_begins_nothing_and_goes_on_in_order(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a", "b"])
    await fleet.client.send_many(("one/a", "slow", number) for number in range(5))
    await asyncio.sleep(0.5)
    assert await fleet.client.pause("one/a", reason="looking at it") == 1
    assert told("a") == [0], "the handler that ran has returned, nothing else began"
    await fleet.client.send_many(("one/a", "note", number) for number in range(5, 3000))
    await fleet.client.ask("one/b", "note", 1)
    await asyncio.sleep(100)
    assert told("a") == [0]
    (view,) = [view for view in await fleet.client.agents() if view.id == "one/a"]
    assert (view.state, view.reason, view.queued) == ("paused", "looking at it", 2999)
    with pytest.raises(CallTimeout):
        await fleet.client.ask("one/a", "note", 3000, timeout=5)
    assert await fleet.client.resume("one/a") == 1
    await fleet.quiet()
    assert told("a") == list(range(3001)), "the ask was durable"


@fleet_test(app_of(), workers=2)
async def test_a_pause_outlives_its_worker_and_the_type_s_covers_whoever_comes(fleet: Fleet) -> None:
    await fleet.spawn("one", count=20)
    await fleet.spawn("other", keys=["a"])
    assert await fleet.client.pause("one/0003") == 1
    assert await fleet.client.pause(type="one", reason="maintenance") == 20
    ids = [f"one/{number:04}" for number in range(20)]
    for turn in range(3):
        await fleet.client.send_many((id, "note", turn) for id in ids)
    await fleet.kill_worker()
    await fleet.start_worker()
    await asyncio.sleep(30)
    await fleet.spawn("one", keys=["new"])
    await fleet.client.send("one/new", "note", 0)
    assert await fleet.client.ask("other/a", "note", 7) == 1
    assert log == [("a", 7)]
    assert {view.state for view in await fleet.client.agents("one")} == {"paused"}
    (type,) = await fleet.client.types()
    assert (type.type, type.paused, type.shards, type.reason) == ("one", 8, 8, "maintenance")
    assert await fleet.client.resume(type="one") == 21
    await asyncio.sleep(5)
    assert told("0003") == []
    assert told("0004") == [0, 1, 2]
    assert await fleet.client.resume("one/0003") == 1
    await fleet.quiet()
    assert told("0003") == [0, 1, 2]
    assert await fleet.client.types() == []
    assert not any(id.startswith(TYPE_PREFIX) for id in await fleet.client.broker.records("0"))


@fleet_test(app_of())
async def test_an_agent_pauses_itself_and_its_message_is_finished(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    await fleet.client.send("one/a", "pause_me", 1)
    await asyncio.sleep(1)
    await fleet.client.send("one/a", "note", 2)
    await asyncio.sleep(10)
    assert told("a") == [1]
    assert await state(fleet, "one/a") == "paused"
    await fleet.client.resume("one/a")
    await fleet.quiet()
    assert told("a") == [1, 2]


@fleet_test(app_of())
async def test_a_paused_agent_for_whom_nothing_waits_can_be_ended(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    await fleet.client.pause("one/a")
    assert (await fleet.client.terminate("one/a")).terminated == 1
    await fleet.spawn("one", keys=["a"])
    assert await fleet.client.ask("one/a", "note", 1) == 1, "an agent that is born anew is not paused"


@fleet_test(app_of())
async def test_what_cannot_be_held_is_told(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    client = fleet.client
    with pytest.raises(UnknownAgent, match="there is no agent one/b"):
        await client.pause("one/b")
    with pytest.raises(UnknownType, match="no agent type 'two', only one, other"):
        await client.pause(type="two")
    for wrong in ({}, {"agent": "one/a", "type": "one"}, {"agent": "one"}, {"type": "a b"}):
        with pytest.raises(WrongBody):
            await client.pause(**wrong)  # type: ignore[arg-type]
    with pytest.raises(WrongBody, match="reason"):
        await client.pause("one/a", reason="x" * 2000)
    with pytest.raises(WrongBody, match="all"):
        await client.resume("one/a", all=True)
    with pytest.raises(WrongBody, match="give concurrency"):
        await client.limit("one")
    with pytest.raises(WrongBody, match="rate"):
        await client.limit("one", rate=float("nan"))
    with pytest.raises(WrongBody, match="where"):
        await client.quarantine(agent="one/a", where=field("restarts") >= 3)


# Drain.


@fleet_test(app_of())
async def test_a_drain_handles_what_was_sent_before_and_nothing_behind(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a", "b"])
    await fleet.client.send_many(("one/a", "slow", number) for number in range(3))
    draining = asyncio.ensure_future(fleet.client.drain("one/a", reason="moving"))
    await asyncio.sleep(0.5)
    assert await state(fleet, "one/a") == "draining"
    await fleet.client.send_many(("one/a", "note", number) for number in range(3, 10))
    began = time.monotonic()
    assert await draining == 1
    assert 2 < time.monotonic() - began < 3
    await asyncio.sleep(10)
    assert told("a") == [0, 1, 2]
    assert await state(fleet, "one/a") == "paused"
    assert await fleet.client.drain("one/a") == 1, "again, it changes nothing"
    await fleet.client.resume("one/a")
    await fleet.quiet()
    assert told("a") == list(range(10))


@fleet_test(app_of())
async def test_a_type_drains_also_what_is_parked_and_though_its_worker_is_killed(fleet: Fleet) -> None:
    await fleet.spawn("one", count=10)
    ids = [f"one/{number:04}" for number in range(10)]
    await fleet.client.send_many((id, "slow", number) for number in range(20) for id in ids)
    await fleet.client.pause("one/0009")
    draining = asyncio.ensure_future(fleet.client.drain(type="one", timeout=600))
    await asyncio.sleep(3.5)
    await fleet.client.send_many((id, "note", 20) for id in ids)
    await fleet.start_worker()
    await fleet.kill_worker()
    assert await draining == 10
    counts = {key: max(told(key)) for key in {key for key, _ in log} - {"0009"}}
    assert set(counts.values()) == {19}
    assert {view.state for view in await fleet.client.agents("one")} == {"paused"}
    assert (await fleet.client.types())[0].paused == 8
    await fleet.client.resume(type="one", all=True)
    await fleet.quiet()
    for id in ids:
        mine = list(dict.fromkeys(told(id.partition("/")[2])))
        assert mine == list(range(21))
    assert await fleet.dead() == []


@fleet_test(app_of())
async def test_a_drain_that_somebody_takes_back_says_so(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a", "b"])
    await fleet.client.send_many(("one/a", "slow", number) for number in range(5))
    draining = asyncio.ensure_future(fleet.client.drain(type="one"))
    await asyncio.sleep(1.5)
    await fleet.client.resume(type="one")
    with pytest.raises(Cancelled, match="resume came behind it"):
        await draining
    await fleet.quiet()
    assert told("a") == list(range(5))
    assert await fleet.dead() == []


@fleet_test(app_of())
async def test_a_second_drain_takes_in_what_came_behind_the_first(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a", "b"])
    await fleet.client.send_many((f"one/{key}", "slow", number) for number in range(3) for key in "ab")
    first = asyncio.ensure_future(fleet.client.drain(type="one"))
    await asyncio.sleep(0.5)
    await fleet.client.send_many((f"one/{key}", "slow", number) for number in range(3, 5) for key in "ab")
    second = asyncio.ensure_future(fleet.client.drain(type="one"))
    await asyncio.sleep(0.5)
    await fleet.client.send_many((f"one/{key}", "note", 5) for key in "ab")
    assert await asyncio.gather(first, second) == [2, 2]
    assert (told("a"), told("b")) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])


@fleet_test(app_of(concurrency=1))
async def test_a_drain_of_a_limited_type_goes_on_when_what_waits_is_cancelled(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a", "b"])
    await fleet.client.send("one/a", "slow", 0)
    await fleet.client.send("one/b", "note", 1, id="x")
    draining = asyncio.ensure_future(fleet.client.drain(type="one"))
    await asyncio.sleep(0.2)
    assert await fleet.client.cancel_message("one/b", "x")
    assert await draining == 2
    await fleet.client.resume(type="one")
    await fleet.client.send_many((f"one/{key}", "note", 2) for key in "ab")
    await fleet.quiet(within=5)
    assert (told("a"), told("b")) == ([0, 2], [2])


@fleet_test(app_of())
async def test_agents_that_end_or_are_set_apart_are_not_waited_for(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a", "b", "c"])
    for key in "abc":
        await fleet.client.send_many((f"one/{key}", "slow", number) for number in range(4))
    draining = asyncio.ensure_future(fleet.client.drain(type="one"))
    await asyncio.sleep(0.5)
    await fleet.client.quarantine(agent="one/a", reason="odd")
    began = time.monotonic()
    await draining
    assert 3 < time.monotonic() - began < 4
    assert (told("a"), told("b")) == ([0], [0, 1, 2, 3])


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


# Quarantine.


@fleet_test(app_of())
async def test_agents_that_a_condition_holds_for_are_set_apart(fleet: Fleet) -> None:
    await fleet.spawn("one", count=10)
    for number in range(10):
        for _ in range(number):
            await fleet.client.ask(f"one/{number:04}", "note", number)
    where = (field("handled") >= 7) & field("key").matches("000[789]")
    found = await fleet.client.quarantine("one", where=where, reason="they did too much")
    assert found == ["one/0007", "one/0008", "one/0009"]
    views = {view.id: view for view in await fleet.client.agents("one", "quarantined")}
    assert set(views) == set(found)
    assert views["one/0007"].reason == "they did too much"
    await fleet.client.send("one/0007", "note", 100)
    await fleet.client.pause("one/0007")
    await fleet.client.resume(type="one")
    await fleet.start_worker()
    await fleet.kill_worker()
    await asyncio.sleep(30)
    assert 100 not in told("0007")
    assert await state(fleet, "one/0007") == "quarantined"
    await fleet.client.resume("one/0007")
    await fleet.quiet()
    assert 100 in told("0007")
    await fleet.client.resume(type="one", all=True)
    assert await fleet.client.agents("one", "quarantined") == []


@fleet_test(app_of(quarantine_after=3))
async def test_so_many_dead_letters_in_a_row_set_an_agent_apart(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    for name in ("fail", "fail", "note", "fail", "fail"):
        await fleet.client.send("one/a", name, 1 if name == "note" else None)
    with pytest.raises(HandlerFailed):
        await fleet.client.ask("one/a", "fail")
    await fleet.client.send("one/a", "note", 2)
    await asyncio.sleep(5)
    (view,) = await fleet.client.agents("one")
    assert view.state == "quarantined"
    assert view.reason.startswith("3 dead letters in a row; the last: 'fail' failed")
    await fleet.client.resume("one/a")
    await fleet.quiet()
    assert told("a") == [1, 2]
    assert len(await fleet.dead()) == 5


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
