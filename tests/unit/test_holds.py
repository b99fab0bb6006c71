"""Agents and types that are paused, drained and set apart: in memory, in virtual time."""

from __future__ import annotations

import asyncio
import time

import pytest

from swell import CallTimeout, Cancelled, UnknownAgent, UnknownType, WrongBody, field
from swell.errors import HandlerFailed
from swell.holds import TYPE_PREFIX
from swell.registry import SEEN
from swell.testing import Fleet, fleet_test
from tests.unit.lifecycle_app import app_of, fresh, log, state, told

__all__ = ["fresh"]


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


@fleet_test(app_of())
async def test_a_condition_on_a_field_that_no_agent_has_is_refused_and_the_fields_are_named(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    for where in (
        field("handeld") >= 0,
        (field("restarts") >= 0) & ((field("state") == "ready") | (field("handeld") >= 0)),
        field("handeld").exists(there=False),
    ):
        with pytest.raises(WrongBody, match=r"no field 'handeld', only id, type, .* handled, .*, key") as wrong:
            await fleet.client.quarantine("one", where=where)
        assert wrong.value.detail["field"] == "where"
    for name in SEEN:
        assert await fleet.client.quarantine("one", where=field(name).exists()) == ["one/a"], name


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
