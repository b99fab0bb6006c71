"""Agents that are held back, with messages of every priority."""

from __future__ import annotations

import asyncio

import pytest

from swell import Agent, App, handler
from swell.priority import PRIORITIES, Priority
from swell.testing import Fleet, fleet_test

log: list[tuple[Priority, int]] = []


class One(Agent):
    @handler
    async def note(self, body: tuple[Priority, int]) -> None:
        log.append(body)

    @handler
    async def slow(self) -> None:
        await asyncio.sleep(5)


def app_of(**limits: float) -> App:
    app = App("tests")
    app.agent("one", max_attempts=1, **limits)(One)  # type: ignore[arg-type]
    return app


@pytest.fixture(autouse=True)
def fresh() -> None:
    log.clear()


async def send_all(fleet: Fleet, count: int, first: int = 0) -> None:
    for priority in reversed(PRIORITIES):
        messages = [("one/a", "note", (priority, number)) for number in range(first, first + count)]
        await fleet.client.send_many(messages, priority=priority)


def in_order(count: int) -> list[tuple[Priority, int]]:
    return [(priority, number) for priority in PRIORITIES for number in range(count)]


@fleet_test(app_of(), mailbox=2)
async def test_a_paused_agent_begins_nothing_of_any_priority_and_goes_on_with_the_most_urgent(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    await fleet.client.pause("one/a")
    await send_all(fleet, 4)
    await asyncio.sleep(60)
    assert log == []
    (view,) = await fleet.client.agents("one")
    assert (view.state, view.queued) == ("paused", 16)
    await fleet.client.resume("one/a")
    await fleet.quiet()
    assert log == in_order(4)


@fleet_test(app_of())
async def test_an_agent_that_is_paused_in_the_middle_of_a_series_holds_the_rest(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    await fleet.client.send("one/a", "slow")
    await send_all(fleet, 5)
    await fleet.client.pause("one/a")
    assert log == []
    await fleet.kill_worker()
    await fleet.start_worker()
    await asyncio.sleep(30)
    assert log == [], "it stays paused elsewhere"
    await fleet.client.resume("one/a")
    await fleet.quiet()
    assert log == in_order(5)


@fleet_test(app_of(), mailbox=2)
async def test_a_drain_handles_what_was_sent_before_it_of_every_priority_and_nothing_behind(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    await fleet.client.send("one/a", "slow")
    await send_all(fleet, 6)
    await asyncio.sleep(1)
    draining = asyncio.ensure_future(fleet.client.drain("one/a"))
    await asyncio.sleep(1)
    await send_all(fleet, 3, first=100)
    await draining
    assert sorted(log) == sorted(in_order(6))
    (view,) = await fleet.client.agents("one")
    assert (view.state, view.queued) == ("paused", 12)
    await fleet.client.resume("one/a")
    await fleet.quiet()
    assert len(log) == 4 * 9


@fleet_test(app_of())
async def test_a_paused_agent_is_ended_behind_what_it_was_sent(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    await fleet.client.pause("one/a")
    await fleet.client.send("one/a", "note", ("critical", 1), priority="critical")
    ending = asyncio.ensure_future(fleet.client.terminate("one/a"))
    await asyncio.sleep(5)
    assert not ending.done()
    await fleet.client.resume("one/a")
    assert (await ending).terminated == 1
    assert log == [("critical", 1)]
    assert await fleet.dead() == []


@fleet_test(app_of(rate=10))
async def test_under_a_limit_the_most_urgent_message_of_an_agent_is_next(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a"])
    await fleet.client.send("one/a", "slow")
    await send_all(fleet, 10)
    await fleet.quiet()
    assert [number for priority, number in log if priority == "low"] == list(range(10))
    assert log[:10] == [("critical", number) for number in range(10)]


@fleet_test(app_of(concurrency=1))
async def test_limits_and_ends_do_not_wait_for_each_other(fleet: Fleet) -> None:
    await fleet.spawn("one", keys=["a", "b"])
    await fleet.client.send("one/b", "slow")
    await send_all(fleet, 3)
    assert (await fleet.client.terminate("one/a", "one/b")).terminated == 2
    assert sorted(log) == sorted(in_order(3))
