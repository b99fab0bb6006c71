"""Tasks that outlive their caller, on real workers in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from swell import (
    Agent,
    App,
    CallError,
    Cancelled,
    Expired,
    HandlerFailed,
    UnknownHandler,
    UnknownTask,
    WrongBody,
    handler,
)
from swell.testing import Fleet, fleet_test

app = App("tests")
ran: list[tuple[str, Any]] = []
opened = asyncio.Event()


@app.agent("hand", max_attempts=1)
class Hand(Agent):
    @handler
    async def double(self, body: int) -> int:
        ran.append((self.id, body))
        return 2 * body

    @handler
    async def fail(self, body: int) -> None:
        raise ValueError(f"no {body}")

    @handler
    async def slow(self, body: float) -> str:
        ran.append((self.id, body))
        await asyncio.sleep(body)
        return self.id

    @handler
    async def count(self, body: int) -> str:
        for part in range(body):
            assert await self.emit(part)
            await asyncio.sleep(1)
        return "all"

    @handler
    async def delegate(self, body: int) -> int:
        return await self.run("other", "double", body, int)


@app.agent("other")
class Other(Hand):
    pass


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()


@fleet_test(app, workers=2)
async def test_a_task_is_done_and_its_outcome_is_kept_for_a_time(fleet: Fleet) -> None:
    await fleet.spawn("hand", count=3)
    task = await fleet.client.submit("hand", "double", 21, key="answer", keep=60)
    assert await task.result(int) == 42
    again = await fleet.client.submit("hand", "double", 21, key="answer")
    assert await again.result(int) == 42
    assert await (await fleet.client.task("answer")).result(int) == 42
    assert len(ran) == 1
    with pytest.raises(WrongBody, match="another request"):
        await (await fleet.client.submit("hand", "double", 22, key="answer")).result()
    await asyncio.sleep(100)
    with pytest.raises(UnknownTask):
        await (await fleet.client.task("answer")).result()
    assert await fleet.client.tasks() == []


@fleet_test(app, workers=2)
async def test_tasks_wait_for_agents_and_go_to_all_of_them(fleet: Fleet) -> None:
    tasks = [await fleet.client.submit("hand", "slow", 5.0, timeout=600) for _ in range(12)]
    await asyncio.sleep(20)
    assert {view.state for view in await fleet.client.tasks()} == {"queued"}
    await fleet.spawn("hand", count=4)
    agents = [await task.result(str) for task in tasks]
    assert len(set(agents)) == 4


@fleet_test(app)
async def test_errors_of_the_handler_are_the_task_s(fleet: Fleet) -> None:
    await fleet.spawn("hand", count=1)
    with pytest.raises(HandlerFailed, match="no 3"):
        await fleet.client.run("hand", "fail", 3)
    with pytest.raises(UnknownHandler, match="did you mean 'double'"):
        await fleet.client.run("hand", "doubl", 3)
    assert await fleet.client.run("hand", "double", 3, int) == 6
    assert {view.state for view in await fleet.client.tasks()} == {"failed", "done"}


@fleet_test(app)
async def test_a_task_that_nobody_began_in_time_expires(fleet: Fleet) -> None:
    with pytest.raises(Expired):
        await fleet.client.run("hand", "double", 3, ttl=5, timeout=60)
    await fleet.spawn("hand", count=1)
    await fleet.quiet()
    assert ran == []


@fleet_test(app, workers=2)
async def test_a_cancelled_task_s_handler_is_cancelled_and_its_agent_is_free(fleet: Fleet) -> None:
    await fleet.spawn("hand", count=1)
    first = await fleet.client.submit("hand", "slow", 1000.0)
    waiting = await fleet.client.submit("hand", "double", 1)
    await asyncio.sleep(2)
    assert await first.cancel()
    with pytest.raises(Cancelled):
        await first.result()
    assert await waiting.result(int) == 2
    assert not await first.cancel()


@fleet_test(app, workers=2)
async def test_parts_come_in_order_before_the_result(fleet: Fleet) -> None:
    await fleet.spawn("hand", count=1)
    task = await fleet.client.submit("hand", "count", 5)
    await asyncio.sleep(2.5)
    late = await fleet.client.task(task.id)
    assert [part async for part in task] == [0, 1, 2, 3, 4]
    assert await task.result() == "all"
    assert [part async for part in late] == [3, 4]
    assert await late.result() == "all"


@fleet_test(app, workers=2)
async def test_each_step_of_a_chain_has_the_result_of_the_one_before(fleet: Fleet) -> None:
    await fleet.spawn("hand", count=2)
    await fleet.spawn("other", count=2)
    task = await fleet.client.chain([("hand", "double"), ("other", "double"), ("hand", "double")], 1)
    assert await task.result(int) == 8
    assert [agent.split("/")[0] for agent, _ in ran] == ["hand", "other", "hand"]
    broken = await fleet.client.chain([("hand", "double"), ("hand", "fail"), ("hand", "double")], 1)
    with pytest.raises(HandlerFailed, match="no 2"):
        await broken.result()


@fleet_test(app)
async def test_agents_run_tasks_themselves(fleet: Fleet) -> None:
    await fleet.spawn("hand", count=1)
    await fleet.spawn("other", count=1)
    assert await fleet.client.run("hand", "delegate", 4, int) == 8


@fleet_test(app, workers=2)
async def test_the_task_of_an_agent_that_has_ended_goes_to_another(fleet: Fleet) -> None:
    await fleet.spawn("hand", keys=["a"])
    assert await fleet.client.run("hand", "double", 1) == 2  # Now its home knows `a`.
    await fleet.client.terminate("hand/a")
    task = await fleet.client.submit("hand", "double", 2, timeout=200)
    await asyncio.sleep(5)
    await fleet.spawn("hand", keys=["b"])
    assert await task.result(int) == 4
    assert await fleet.dead() == []


@fleet_test(app, workers=2)
async def test_workers_that_die_lose_and_double_no_outcome(fleet: Fleet) -> None:
    await fleet.spawn("hand", count=8)
    tasks = [await fleet.client.submit("hand", "slow", 3.0 + n / 100, timeout=600) for n in range(40)]
    for _ in range(4):
        await asyncio.sleep(4)
        await fleet.start_worker()
        await fleet.kill_worker()
    for task in tasks:
        assert (await task.result(str)).startswith("hand/")
    await fleet.quiet()
    assert {view.state for view in await fleet.client.tasks()} == {"done"}


@fleet_test(app, workers=2)
async def test_many_are_submitted_together(fleet: Fleet) -> None:
    await fleet.spawn("hand", count=8)
    ids = await fleet.client.submit_many("hand", "double", range(500), key="all")
    assert ids[:2] == ["all-0", "all-1"]
    results = [await (await fleet.client.task(id)).result(int) for id in ids]
    assert results == [2 * n for n in range(500)]
    await fleet.client.submit_many("hand", "double", range(500), key="all")
    await fleet.quiet()
    assert len(ran) == 500


@fleet_test(app, max_depth=256)
async def test_a_home_that_is_full_refuses(fleet: Fleet) -> None:
    await fleet.spawn("hand", count=8)

    async def fill() -> None:
        for n in range(10_000):
            await fleet.client.run("hand", "double", n)

    with pytest.raises(CallError, match="takes no more"):
        await fill()
