"""What is urgent, and what takes something back, waits behind no backlog: reading of normal messages is at a stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from swell import Agent, App, CallTimeout, Cancelled, UnknownTask, handler
from swell.priority import PRIORITIES, Priority
from swell.testing import Fleet, fleet_test

log: list[Any] = []
SETTINGS: dict[str, Any] = {"shards": 1, "buffer": 256}
#: How long the backlog stands, seconds.
STANDS_S = 1000.0
#: What does not wait for it is over by then.
SOON_S = 3.0


class Crew(Agent):
    @handler
    async def square(self, body: int) -> int:
        log.append(body)
        return body * body

    @handler
    async def parts(self, body: int) -> int:
        for number in range(body):
            await self.emit(number)
            await asyncio.sleep(1)
        return body

    @handler
    async def wait(self, body: float) -> float:
        try:
            await asyncio.sleep(body)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        return body


app = App("tests")
app.agent("crew", timeout=None)(Crew)
app.agent("bulk", timeout=None)(Crew)
app.agent("nobody", timeout=None)(Crew)


@pytest.fixture(autouse=True)
def fresh() -> None:
    log.clear()


async def backlog(fleet: Fleet, priority: Priority = "normal") -> None:
    """More messages of one priority than are read: what comes behind them is read after STANDS_S."""
    await fleet.spawn("crew", keys=["1", "2"])
    await fleet.spawn("bulk", count=300)
    await fleet.client.run("crew", "square", 0)
    for _ in range(2):
        await fleet.client.send_many([(f"bulk/{n:04d}", "wait", STANDS_S) for n in range(300)], priority=priority)
    await asyncio.sleep(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON_S):
            await fleet.client.ask("crew/2", "square", 1, priority=priority)
    log.clear()


@asynccontextmanager
async def soon() -> AsyncIterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON_S


@fleet_test(app, **SETTINGS)
async def test_urgent_tasks_are_taken_given_out_and_told_at_once(fleet: Fleet) -> None:
    await backlog(fleet)
    client = fleet.client
    async with soon():
        assert await client.run("crew", "square", 3, int, priority="critical") == 9
        assert await (await client.submit("crew", "square", 4, priority="high")).result(int) == 16
        steps = [("crew", "square"), ("crew", "square")]
        assert await (await client.chain(steps, 2, priority="critical")).result(int) == 16
        ids = await client.submit_many("crew", "square", range(20), priority="critical")
        tasks = [await client.task(id) for id in ids]
        assert [await task.result(int) for task in tasks] == [n * n for n in range(20)]
        results = client.map("crew", "square", range(5), int, durable=True, priority="critical")
        assert sorted([outcome.result async for outcome in results]) == [0, 1, 4, 9, 16]


@fleet_test(app, **SETTINGS)
async def test_the_outcome_of_a_critical_task_waits_behind_no_others(fleet: Fleet) -> None:
    await backlog(fleet, "high")
    async with soon():
        assert await fleet.client.run("crew", "square", 3, int, priority="critical") == 9


@fleet_test(app, **SETTINGS)
async def test_what_agents_do_is_told_at_once_so_those_that_are_free_are_found(fleet: Fleet) -> None:
    await backlog(fleet)
    began = time.monotonic()
    views = await fleet.client.agents("bulk", limit=1000)
    assert time.monotonic() - began < 1
    assert {(view.state, view.queued > 0) for view in views} == {("working", False)}
    (view, *_) = await fleet.client.agents("crew")
    assert view.worker


@fleet_test(app, **SETTINGS)
async def test_a_normal_task_that_runs_is_followed_and_cancelled_at_once(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1", "2"])
    running = await fleet.client.submit("crew", "parts", 500, key="running", timeout=9000)
    other = await fleet.client.submit("crew", "wait", 5000.0, key="other", timeout=9000)
    await asyncio.sleep(1)
    await fleet.spawn("crew", keys=["3"])
    await fleet.spawn("bulk", count=300)
    await fleet.client.send_many([(f"bulk/{n:04d}", "wait", STANDS_S) for n in range(300)] * 2)
    await asyncio.sleep(1)
    async with soon():
        following = await fleet.client.task("running")
        async for part in following:
            assert part > 0
            break
        assert await running.cancel()
        assert await fleet.client.cancel_task("other")
        assert not await fleet.client.cancel_task("other")
        for task in (running, following, other):
            with pytest.raises(Cancelled):
                await task.result()
        while "cancelled" not in log:
            await asyncio.sleep(0.1)


@fleet_test(app, **SETTINGS)
async def test_a_call_that_gives_up_ends_its_handler_at_once(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    running = asyncio.ensure_future(fleet.client.run("crew", "wait", 5000.0, timeout=9000))
    await asyncio.sleep(1)
    await fleet.spawn("bulk", count=300)
    await fleet.client.send_many([(f"bulk/{n:04d}", "wait", STANDS_S) for n in range(300)] * 2)
    await asyncio.sleep(1)
    running.cancel()
    async with soon():
        while log != ["cancelled"]:
            await asyncio.sleep(0.1)


@fleet_test(app, **SETTINGS)
async def test_a_task_that_was_not_read_yet_is_not_unknown_and_can_be_cancelled(fleet: Fleet) -> None:
    await backlog(fleet)
    client = fleet.client
    await client.submit("crew", "square", 5, key="kept", timeout=9000)
    ended = await client.submit("nobody", "square", 6, key="ended", timeout=9000)
    held = await client.submit("nobody", "square", 7, key="held", timeout=9000)
    assert await client.show_task("kept") is None
    following = await client.task("kept", timeout=9000)
    cancelling = asyncio.ensure_future(client.cancel_task("ended", timeout=9000))
    with pytest.raises(CallTimeout):
        await held.cancel()
    await asyncio.sleep(STANDS_S / 2)
    assert [following.done, cancelling.done(), held.done] == [False, False, False]
    assert await following.result(int) == 25
    assert await cancelling
    for task in (ended, held):
        with pytest.raises(Cancelled):
            await task.result()
    await fleet.spawn("nobody", keys=["1"])
    assert await client.run("nobody", "square", 8) == 64
    assert log == [5, 8]


@fleet_test(app)
async def test_that_a_task_is_unknown_is_told_when_all_inboxes_were_read(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    async with soon():
        with pytest.raises(UnknownTask, match="no task 'never'"):
            await (await fleet.client.task("never")).result()
        with pytest.raises(UnknownTask, match="no task 'never'"):
            await fleet.client.cancel_task("never")


@fleet_test(app, **SETTINGS)
async def test_the_same_key_with_another_priority_is_the_same_task(fleet: Fleet) -> None:
    await backlog(fleet)
    client = fleet.client
    first = await client.submit("crew", "square", 6, key="same", timeout=9000)
    async with soon():
        assert await client.run("crew", "square", 6, int, key="same", priority="critical") == 36
    assert not first.done
    assert await first.result(int) == 36
    assert log == [6]


@fleet_test(app, **SETTINGS)
@pytest.mark.parametrize("priority", PRIORITIES)
async def test_a_message_that_runs_is_cancelled_at_once_whatever_its_priority(fleet: Fleet, priority: Priority) -> None:
    await fleet.spawn("crew", keys=["1"])
    await fleet.client.send("crew/1", "wait", 5000.0, id="m", priority=priority)
    await asyncio.sleep(1)
    await fleet.spawn("bulk", count=300)
    await fleet.client.send_many([(f"bulk/{n:04d}", "wait", STANDS_S) for n in range(300)] * 2)
    await asyncio.sleep(1)
    async with soon():
        assert await fleet.client.cancel_message("crew/1", "m")
        while log != ["cancelled"]:
            await asyncio.sleep(0.1)


@fleet_test(app, **SETTINGS)
async def test_a_request_that_is_read_late_ends_nothing_that_was_sent_after_it(fleet: Fleet) -> None:
    client = fleet.client
    await backlog(fleet)
    await client.send("crew/1", "wait", 10.0, id="m", priority="critical")
    await client.send("crew/2", "square", 1, delay=5000, id="later", priority="high")
    await asyncio.sleep(1)
    async with soon():
        assert await client.cancel_message("crew/1", "m")
        assert await client.cancel_message("crew/2", "later")
    await asyncio.sleep(1)
    log.clear()
    running = asyncio.ensure_future(client.ask("crew/1", "wait", 2 * STANDS_S, id="m", priority="high", timeout=9000))
    await client.send("crew/2", "square", 7, delay=2 * STANDS_S, id="later", priority="high")
    assert await running == 2 * STANDS_S
    await asyncio.sleep(STANDS_S)
    assert log == [7]
