"""Agents that are let go when they are idle: in memory, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from swell import UnknownAgent
from swell.testing import Fleet, fleet_test
from tests.unit.lifecycle_app import app_of, fresh, hooks, log, state, told, trouble

__all__ = ["fresh"]


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
