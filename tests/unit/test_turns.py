"""Which agent runs: those that do not wait share one task, those that do have one each, and nobody holds up others."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from swell import Agent, App, handler
from swell_worker import turns
from tests.unit.brokers import rig_of

app = App("tests")
whose: ContextVar[str] = ContextVar("whose", default="nobody's")


class Log:
    """What the agents did."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[object] | None] = []
        self.handled: list[object] = []
        self.waiting = 0
        self.gate = asyncio.Event()


log = Log()


@pytest.fixture(autouse=True)
def fresh() -> None:
    global log
    log = Log()


@app.agent("one", timeout=None)
class One(Agent):
    @handler
    async def note(self, body: int) -> None:
        log.tasks.append(asyncio.current_task())
        log.handled.append(body)

    @handler
    async def wait(self) -> None:
        log.waiting += 1
        await log.gate.wait()

    @handler
    async def leave_behind(self) -> str:
        """Sets a context variable and never resets it."""
        before = whose.get()
        whose.set(self.id)
        return before

    @handler
    async def cancel_itself(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()


IDS = [f"one/{number:03d}" for number in range(100)]


async def test_agents_whose_handlers_do_not_wait_share_a_task() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn(*IDS)
        await rig.client.send_many((id, "note", 0) for id in IDS)
        await rig.settled()
        assert len(log.handled) == 100
        assert len(set(log.tasks)) < 10  # One for each read that brought some of them.


async def test_agents_that_wait_hold_up_nobody_and_all_of_them_may_wait_at_once() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn(*IDS)
        await rig.client.send_many((id, "wait", None) for id in IDS[:99])
        await rig.client.send(IDS[99], "note", 1)
        await rig.until(lambda: asyncio.sleep(0, log.waiting == 99 and log.handled == [1]))
        assert len({cell.task for cell in worker.fleet.awake}) == 99
        log.gate.set()
        await rig.settled()
        assert not worker.fleet.awake


async def test_what_a_handler_leaves_behind_in_its_task_is_not_seen_by_other_agents() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn(*IDS)
        seen = await asyncio.gather(*(rig.client.ask(id, "leave_behind") for id in IDS))
        assert set(seen) == {"nobody's"}


async def test_a_cancellation_that_a_handler_leaves_behind_strikes_no_other_agent() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn(*IDS)
        await rig.client.send_many(
            message for id in IDS for message in ((id, "cancel_itself", None), (id, "note", 1), (id, "wait", None))
        )
        log.gate.set()
        await rig.settled()
        assert log.handled == [1] * 100
        assert await rig.letters() == []


async def test_while_agents_are_busy_everything_else_has_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "STEP_NS", 0)
    loop_turns = 0

    async def count() -> None:
        nonlocal loop_turns
        while len(log.handled) < 100:
            loop_turns += 1
            await asyncio.sleep(0)

    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn(*IDS)
        counting = asyncio.ensure_future(count())
        await rig.client.send_many((id, "note", 0) for id in IDS)
        await counting
        assert loop_turns >= 100


async def test_a_shard_that_is_lost_ends_the_handlers_that_wait_and_the_worker_goes_on() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn(*IDS[:10])
        await rig.client.send_many((id, "wait", None) for id in IDS[:5])
        await rig.until(lambda: asyncio.sleep(0, log.waiting == 5))
        tasks = {cell.task for cell in worker.fleet.awake}
        (shard,) = worker.consumer.owned.values()
        worker.consumer.lost(shard)
        log.gate.set()
        await rig.until(lambda: asyncio.sleep(0, all(task is not None and task.done() for task in tasks)))
        await rig.client.send_many((id, "note", 1) for id in IDS[:10])
        await rig.settled()
        assert log.handled == [1] * 10
        assert log.waiting == 10  # Those that were cancelled were read, and handled, again.
