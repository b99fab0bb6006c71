"""Tasks of several parts: what a handler emits, chains of steps, tasks of agents, and tasks mapped by the thousand."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from swell import HandlerFailed, WrongBody
from swell.testing import Fleet, fleet_test
from tests.unit.test_durable_tasks import app_of, fresh, runs

__all__ = ["fresh"]


@fleet_test(app_of(), workers=2)
async def test_parts_come_in_order_ahead_of_the_result_of_a_task_and_of_a_question(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    task = await fleet.client.submit("crew", "parts", 5)
    times: list[float] = []
    parts = []
    async for part in task:
        parts.append(part)
        times.append(time.monotonic())
    assert parts == list(range(5))
    assert times[-1] - times[0] > 3, "they came as they were made"
    assert await task.result(int) == 5
    asked = await fleet.client.stream("crew/1", "parts", 3)
    assert [part async for part in asked] == [0, 1, 2]
    assert await asked.result(int) == 3
    assert await fleet.client.ask("crew/1", "parts", 2) == 2, "who does not listen passes over them"
    await fleet.client.send("crew/1", "quiet")
    assert await fleet.client.ask("crew/1", "quiet") is True


@fleet_test(app_of())
async def test_a_handler_that_is_tried_again_sends_its_parts_again(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    task = await fleet.client.submit("crew", "flaky")
    assert [part async for part in task] == [1, 2, 3]
    assert await task.result(int) == 3


@fleet_test(app_of(), workers=2)
async def test_each_step_of_a_chain_gets_the_result_of_the_one_before(fleet: Fleet) -> None:
    await fleet.spawn("crew", count=2)
    steps = [("crew", "square"), ("other", "square"), ("crew", "square")]
    task = await fleet.client.chain(steps, 3, key="chain", timeout=600)
    await asyncio.sleep(5)
    (view,) = await fleet.client.tasks()
    assert (view.state, view.step, view.steps, view.type) == ("queued", 2, 3, "other")
    await fleet.spawn("other", count=1)
    assert await task.result(int) == 3**8
    assert await (await fleet.client.chain(steps, 2)).result(int) == 2**8
    failing = await fleet.client.chain([("crew", "square"), ("crew", "fail")], 2)
    with pytest.raises(HandlerFailed):
        await failing.result()
    with pytest.raises(WrongBody, match="steps: 0 must be 1 to 100"):
        await fleet.client.chain([], 2)


@fleet_test(app_of())
async def test_an_agent_can_have_others_do_something(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    await fleet.spawn("other", keys=["1"])
    assert await fleet.client.ask("crew/1", "hand_on", 2) == 9


@fleet_test(app_of(), workers=2)
async def test_thousands_of_tasks_are_mapped_in_order_and_in_bounded_memory(fleet: Fleet) -> None:
    await fleet.spawn("crew", count=10)
    taken = 0

    def bodies() -> Any:
        nonlocal taken
        for number in range(2000):
            taken += 1
            yield number

    seen = 0
    async for outcome in fleet.client.map(
        "crew", "square", bodies(), int, durable=True, ordered=True, max_in_flight=50, key="job", keep=10
    ):
        assert (outcome.place, outcome.result) == (seen, seen * seen)
        seen += 1
        assert taken <= seen + 50
    assert seen == 2000
    assert set(runs.values()) == {1}
    with pytest.raises(WrongBody, match="keep: only tasks have that; say durable=True"):
        fleet.client.map("crew", "square", [1], keep=10)
