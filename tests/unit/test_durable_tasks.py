"""Tasks that outlive their caller: queued, given out, told, kept; each step taken once, whoever dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest

from swell import (
    Agent,
    App,
    CallTimeout,
    Cancelled,
    Expired,
    HandlerFailed,
    UnknownHandler,
    UnknownTask,
    WrongBody,
    handler,
)
from swell.task import OUTBOX, PREFIX
from swell.testing import Fleet, fleet_test
from swell_worker import task_board

runs: Counter[Any] = Counter()
log: list[Any] = []


class Kept(msgspec.Struct):
    count: int = 0


class Crew(Agent):
    state: Kept

    @handler
    async def square(self, body: int) -> int:
        runs[body] += 1
        return body * body

    @handler
    async def count(self) -> int:
        self.state.count += 1
        return self.state.count

    @handler
    async def wait(self, body: float) -> str:
        runs[body] += 1
        try:
            await asyncio.sleep(body)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        log.append(body)
        return self.key

    @handler
    async def parts(self, body: int) -> int:
        for number in range(body):
            assert await self.emit(number)
            await asyncio.sleep(1)
        return body

    @handler
    async def flaky(self) -> int:
        runs["flaky"] += 1
        await self.emit(runs["flaky"])
        if runs["flaky"] < 3:
            raise ValueError("not yet")
        return runs["flaky"]

    @handler
    async def quiet(self) -> bool:
        return await self.emit("to nobody")

    @handler
    async def fail(self) -> None:
        raise ValueError("no")

    @handler
    async def hand_on(self, body: int) -> int:
        return await self.client.run("other", "square", body + 1, int)


def app_of(**options: Any) -> App:
    app = App("tests")
    app.agent("crew", timeout=None, **options)(Crew)
    app.agent("other", timeout=None, **options)(Crew)
    return app


@pytest.fixture(autouse=True)
def fresh() -> None:
    runs.clear()
    log.clear()


async def left(fleet: Fleet) -> set[str]:
    """Records of outcomes that were not forgotten, and of tasks that have not ended."""
    found: set[str] = set()
    for shard in fleet.client.shard_names:
        found |= {id for id in await fleet.client.broker.tasks(shard) if id.startswith(OUTBOX)}
    views = await fleet.client.tasks(limit=100_000)
    return found | {view.id for view in views if view.state in ("queued", "running")}


async def settled(fleet: Fleet) -> None:
    await fleet.quiet()
    async with asyncio.timeout(3600):
        while await left(fleet):
            await asyncio.sleep(0.1)
    await fleet.quiet()


# From submission to result.


@fleet_test(app_of(), workers=2)
async def test_tasks_wait_until_there_is_an_agent_and_each_is_done_once(fleet: Fleet) -> None:
    tasks = [await fleet.client.submit("crew", "square", number, timeout=600) for number in range(100)]
    await asyncio.sleep(60)
    assert {view.state for view in await fleet.client.tasks(limit=1000)} == {"queued"}
    await fleet.spawn("crew", count=5)
    assert [await task.result(int) for task in tasks] == [number * number for number in range(100)]
    assert set(runs.values()) == {1}
    await settled(fleet)


@fleet_test(app_of())
async def test_an_agent_has_one_task_at_a_time_and_whoever_is_free_takes_the_next(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1", "2", "3"])
    await fleet.client.send("crew/1", "wait", 1000.0)
    tasks = [await fleet.client.submit("crew", "wait", 10.0, timeout=600) for _ in range(20)]
    await asyncio.sleep(1)
    views = await fleet.client.agents("crew")
    assert max(view.queued for view in views) <= 1
    await asyncio.sleep(150)
    done = Counter([await task.result(str) for task in tasks if task.done])
    assert done.keys() == {"2", "3"}
    assert done.total() == 19, "one waits at the slow one, which was thought to be idle at first or had it last"
    await fleet.quiet()
    assert await tasks[-1].result(str)


@fleet_test(app_of())
async def test_the_least_busy_agent_is_first(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1", "2", "3"])
    for key, count in (("1", 5), ("2", 3)):
        await fleet.client.send_many((f"crew/{key}", "wait", 1000.0) for _ in range(count))
    assert await fleet.client.run("crew", "wait", 1.0, str) == "3"


@fleet_test(app_of())
async def test_a_task_that_fails_for_good_says_why_and_leaves_its_dead_letter(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    with pytest.raises(HandlerFailed, match="'fail' failed 3 times, at last: ValueError: no"):
        await fleet.client.run("crew", "fail")
    with pytest.raises(UnknownHandler, match="have no handler 'sqare'"):
        await fleet.client.run("crew", "sqare", 1)
    with pytest.raises(WrongBody, match="Expected `int`, got `str`"):
        await fleet.client.run("crew", "square", "x")
    kinds = sorted(letter.kind for letter in await fleet.dead())
    assert kinds == ["handler_failed", "unknown_handler", "wrong_body"]
    assert {view.state for view in await fleet.client.tasks()} == {"failed"}
    assert await fleet.client.run("crew", "square", 2, int) == 4
    await settled(fleet)


@fleet_test(app_of())
async def test_under_a_key_a_task_is_done_once_and_its_result_is_there_for_all_who_ask(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    both = [await fleet.client.submit("crew", "wait", 5.0, key="once") for _ in range(2)]
    assert [await task.result(str) for task in both] == ["1", "1"]
    assert await fleet.client.run("crew", "wait", 5.0, str, key="once") == "1"
    assert await (await fleet.client.task("once")).result(str) == "1"
    assert runs == {5.0: 1}
    with pytest.raises(WrongBody, match="task 'once' is known, and was another one; choose another key"):
        await fleet.client.run("crew", "wait", 6.0, key="once")
    with pytest.raises(UnknownTask, match="there is no task 'never'"):
        await (await fleet.client.task("never")).result()
    with pytest.raises(UnknownTask, match="there is no task 'never': it never was, or was forgotten"):
        await fleet.client.cancel_task("never")
    assert not await fleet.client.cancel_task("once"), "it has ended"


@fleet_test(app_of())
async def test_a_result_is_kept_as_long_as_was_said_and_leaves_nothing_behind(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    await fleet.client.run("crew", "square", 3, key="short", keep=60)
    await fleet.client.run("crew", "square", 3, key="long", keep=600)
    await fleet.kill_worker()
    await fleet.start_worker()
    await asyncio.sleep(120)
    assert [view.id for view in await fleet.client.tasks()] == ["long"]
    assert await (await fleet.client.task("long")).result(int) == 9
    await asyncio.sleep(600)
    records = [await fleet.client.broker.tasks(shard) for shard in fleet.client.shard_names]
    assert not any(records)
    assert await fleet.client.run("crew", "square", 3, int, key="long") == 9
    assert runs[3] == 3


@fleet_test(app_of(), shards=1)
async def test_results_are_kept_within_bounds_the_newest(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    for number in range(20):
        await fleet.client.run("crew", "square", number, key=f"k{number}")
    views = await fleet.client.tasks(limit=100)
    assert sorted(int(view.id[1:]) for view in views) == list(range(20))[-task_board.KEEP_ENDED :]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_board, "KEEP_ENDED", 5)
    monkeypatch.setattr(task_board, "MOST_TASKS", 10)


@fleet_test(app_of(), shards=1)
async def test_what_is_kept_and_what_waits_has_limits(fleet: Fleet, few: None) -> None:
    tasks = [await fleet.client.submit("crew", "square", number, timeout=600) for number in range(12)]
    with pytest.raises(Exception, match="10 tasks wait or run in shard 0, and no more may"):
        await tasks[-1].result()
    await fleet.spawn("crew", keys=["1"])
    for number, task in enumerate(tasks[:10]):
        assert await task.result(int) == number * number
    await fleet.quiet()
    assert len(await fleet.client.tasks()) == 5


# Time, priorities, cancellation.


@fleet_test(app_of())
async def test_a_task_that_nobody_begins_in_time_expires_and_is_never_done(fleet: Fleet) -> None:
    early = await fleet.client.submit("crew", "square", 1, ttl=10)
    began = asyncio.get_running_loop().time()
    with pytest.raises(Expired, match="expired before an agent was free"):
        await early.result()
    assert 10 <= asyncio.get_running_loop().time() - began < 11
    await fleet.spawn("crew", keys=["1"])
    await fleet.client.send("crew/1", "wait", 100.0)
    await asyncio.sleep(1)
    with pytest.raises(Expired):
        await fleet.client.run("crew", "square", 2, ttl=10, timeout=200)
    await fleet.quiet()
    assert (runs[1], runs[2]) == (0, 0)
    assert {view.state for view in await fleet.client.tasks()} == {"expired"}


@fleet_test(app_of())
async def test_urgent_tasks_are_given_out_first(fleet: Fleet) -> None:
    for priority in ("low", "normal", "critical", "high"):
        for number in range(3):
            await fleet.client.submit("crew", "wait", number + len(priority) * 10.0, priority=priority)
    await asyncio.sleep(1)
    await fleet.spawn("crew", keys=["1"])
    await settled(fleet)
    # Among those of one priority there is no order: they have different homes.
    assert [sorted(log[at : at + 3]) for at in (0, 3, 6, 9)] == [
        [n + at * 10.0 for n in range(3)] for at in (8, 4, 6, 3)
    ]


@fleet_test(app_of())
async def test_a_cancelled_task_is_not_given_out_or_its_handler_is_cancelled(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    running = await fleet.client.submit("crew", "wait", 1000.0, timeout=10_000)
    await asyncio.sleep(1)
    waiting = await fleet.client.submit("crew", "square", 3, timeout=10_000)
    await asyncio.sleep(1)
    assert await fleet.client.cancel_task(waiting.id)
    assert await fleet.client.cancel_task(running.id)
    assert not await fleet.client.cancel_task(running.id)
    for task in (running, waiting):
        with pytest.raises(Cancelled):
            await task.result()
    await settled(fleet)
    assert log == ["cancelled"]
    assert runs[3] == 0
    assert await fleet.client.run("crew", "square", 4, int) == 16


@fleet_test(app_of())
async def test_who_gives_up_takes_its_task_back_unless_it_has_a_key(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    with pytest.raises(CallTimeout):
        await fleet.client.run("crew", "wait", 100.0, timeout=5)
    await fleet.quiet(within=5)
    assert log == ["cancelled"]
    with pytest.raises(CallTimeout):
        await fleet.client.run("crew", "wait", 100.0, timeout=5, key="mine")
    assert await (await fleet.client.task("mine")).result(str, timeout=200) == "1"


# Whoever dies.


@fleet_test(app_of(), workers=2, lease_ms=1000)
async def test_what_an_agent_that_ended_was_to_do_is_done_by_another(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1", "2"])
    tasks = [await fleet.client.submit("crew", "wait", 10.0, timeout=600) for _ in range(4)]
    await asyncio.sleep(1)
    await fleet.client.terminate("crew/1")
    done = Counter([await task.result(str) for task in tasks])
    assert done["2"] >= 2, done
    assert done.total() == 4
    await settled(fleet)
    assert await fleet.dead() == []


@fleet_test(app_of(), workers=2, lease_ms=1000)
async def test_a_task_goes_on_though_every_worker_dies_in_turn(fleet: Fleet) -> None:
    await fleet.spawn("crew", count=6)
    tasks = [await fleet.client.submit("crew", "wait", float(number % 5), timeout=3600) for number in range(200)]
    for _ in range(4):
        await asyncio.sleep(7)
        await fleet.start_worker()
        await fleet.kill_worker()
    for task in tasks:
        assert await task.result(str)
    await settled(fleet)
    assert {view.state for view in await fleet.client.tasks(limit=1000)} == {"done"}
    assert await fleet.dead() == []


@fleet_test(app_of(), workers=2, lease_ms=1000)
async def test_a_hand_over_gives_nothing_out_twice(fleet: Fleet) -> None:
    await fleet.spawn("crew", count=10)
    outcomes = fleet.client.map("crew", "square", range(600), int, durable=True, max_in_flight=100, timeout=600)
    seen = 0
    async for outcome in outcomes:
        assert outcome.result == outcome.place**2
        seen += 1
        if seen % 100 == 0:
            await fleet.start_worker()
            await fleet.stop_worker()
    assert seen == 600
    assert set(runs.values()) == {1}
    await settled(fleet)


@fleet_test(app_of(), lease_ms=1000)
async def test_a_kept_state_counts_a_task_once(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    for number in range(1, 20):
        assert await fleet.client.run("crew", "count", None, int) == number
        if number % 5 == 0:
            await fleet.start_worker()
            await fleet.kill_worker()


@fleet_test(app_of())
async def test_messages_that_only_look_like_a_tasks_harm_nobody(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    client = fleet.client
    for headers in (None, {}, {"swell-task": "no json"}, {"swell-task": '["9","x",0,1]'}):
        await client.append(client.shard("crew/1"), ("crew/1", "square", 2, 0, "", "$task", 0, headers))
    for name in ("$task", "$task_wait", "$task_cancel", "$task_ended"):
        for body in (5, {"id": 5}, {"id": "x", "steps": []}):
            await client.append("0", ("$shard", name, body, 0))
    await fleet.quiet()
    assert runs[2] == 4
    assert await client.run("crew", "square", 3, int) == 9
    records = [await client.broker.tasks(shard) for shard in client.shard_names]
    assert sum(id.startswith(PREFIX) for of_shard in records for id in of_shard) == 1
