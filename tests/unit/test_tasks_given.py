"""Tasks on their way to an agent: what ends before the append is heard of, and what is lost meanwhile."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from typing import Any

import pytest

from swell import Agent, App, Cancelled, handler
from swell.bus.broker import Inheritance, Lease
from swell.bus.memory import MemoryBroker
from swell.bus.producer import Producer
from swell.bus.shard import OwnedShard
from swell.task import PREFIX, Step, TaskEnded, TaskRecord, TaskRequest, home_of
from swell.testing import Fleet, fleet_test
from swell.wire import TO_TASK, Failure
from swell_worker.task_board import Board
from swell_worker.tasks import Tasks

runs: Counter[Any] = Counter()
log: list[Any] = []
#: How much later a worker hears that a task's message was appended, seconds.
LATE_S = 5.0


class Crew(Agent):
    @handler
    async def add(self, body: int) -> int:
        runs[body] += 1
        return body + 1

    @handler
    async def wait(self, body: float) -> str:
        log.append("begun")
        try:
            await asyncio.sleep(body)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        log.append("done")
        return self.key

    @handler
    async def count_down(self, body: int) -> int:
        for number in reversed(range(body)):
            await asyncio.sleep(1)
            await self.emit(number)
        return body


app = App("tests")
for name in ("crew", "other"):
    app.agent(name, timeout=None)(Crew)


@pytest.fixture(autouse=True)
def fresh() -> None:
    runs.clear()
    log.clear()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the append of a task's message comes late, as if its worker's loop stood still for a moment."""
    send = Producer.send

    async def slow(self: Producer, shard: str, message: tuple[Any, ...], wait_s: float | None = None) -> None:
        await send(self, shard, message, wait_s)
        if len(message) > 5 and message[5] == TO_TASK:
            await asyncio.sleep(LATE_S)

    monkeypatch.setattr(Producer, "send", slow)


# What has ended before the append is heard of.


@fleet_test(app, shards=1)
async def test_a_chain_goes_on_though_a_step_ends_before_its_append_is_heard_of(fleet: Fleet, late: None) -> None:
    await fleet.spawn("crew", keys=["1"])
    chains = [await fleet.client.chain([("crew", "add")] * 3, 10 * number, timeout=600) for number in range(3)]
    assert [await chain.result(int) for chain in chains] == [3, 13, 23]
    assert set(runs.values()) == {1}
    views = await fleet.client.tasks()
    assert {(view.state, view.agent) for view in views} == {("done", "crew/1")}


@fleet_test(app, shards=1)
async def test_a_task_goes_to_another_agent_though_its_first_was_gone_before_the_append_is_heard_of(
    fleet: Fleet, late: None
) -> None:
    await fleet.spawn("crew", keys=["1"])
    await fleet.client.run("crew", "add", 0)
    await fleet.client.terminate("crew/1")
    task = await fleet.client.submit("crew", "add", 1, timeout=600)
    await asyncio.sleep(1)
    await fleet.spawn("crew", keys=["2"])
    assert await task.result(int) == 2
    assert await fleet.dead() == []


@fleet_test(app, shards=1)
async def test_a_task_that_is_on_its_way_is_cancelled_at_its_agent(fleet: Fleet, late: None) -> None:
    await fleet.spawn("crew", keys=["1"])
    task = await fleet.client.submit("crew", "wait", 100.0, timeout=600)
    await asyncio.sleep(1)
    assert await task.cancel()
    with pytest.raises(Cancelled):
        await task.result()
    await fleet.quiet(within=2)
    assert log == ["begun", "cancelled"]
    assert await fleet.client.run("crew", "add", 1, int) == 2


@fleet_test(app, shards=1)
async def test_a_task_whose_handler_has_begun_does_not_expire(fleet: Fleet, late: None) -> None:
    await fleet.spawn("crew", keys=["1"])
    task = await fleet.client.submit("crew", "wait", 2 * LATE_S, ttl=1, timeout=600)
    assert await task.result(str) == "1"


@fleet_test(app, shards=1)
async def test_whoever_asks_for_a_task_on_its_way_hears_its_parts(fleet: Fleet, late: None) -> None:
    await fleet.spawn("crew", keys=["1"])
    await fleet.client.submit("crew", "count_down", 4, key="k")
    await asyncio.sleep(1.5)
    assert [part async for part in await fleet.client.task("k")] == [2, 1, 0]


class Deaf(Tasks):
    """Gives nothing out."""

    def __init__(self) -> None:
        self.queued: list[str] = []

    def queue(self, board: Board, record: TaskRecord) -> None:
        self.queued.append(record.request.id)

    def unqueue(self, record: TaskRecord) -> None:
        self.queued.remove(record.request.id)

    def counted(self, record: TaskRecord) -> None:
        pass


def board_of(*steps: str) -> tuple[Board, TaskRecord]:
    board = Board(Deaf(), OwnedShard(Lease("0", "w", 1, "t"), Inheritance({}, {}, {}, {}), 0, asyncio.Event()))
    record = TaskRecord(TaskRequest("t", [Step("crew", name) for name in steps]), "digest")
    board.begin(record)
    return board, record


def test_a_late_answer_to_one_steps_append_says_nothing_of_the_next_at_the_same_agent() -> None:
    board, record = board_of("first", "second")
    first = board.give(record, "crew/1")
    board.heard(record, TaskEnded("t", 0, "crew/1", 1))
    second = board.give(record, "crew/1")
    board.given(record, first)
    assert record.state == "queued"
    board.given(record, second)
    assert (record.state, record.step, record.agent) == ("running", 1, "crew/1")


def test_a_late_answer_to_one_trys_append_says_nothing_of_the_next_at_the_same_agent() -> None:
    board, record = board_of("only")
    first = board.give(record, "crew/1")
    board.again(record)
    second = board.give(record, "crew/1")
    board.given(record, first)
    assert (record.state, board.holder(record)) == ("queued", second)
    board.end(record, "cancelled", failure=Failure("cancelled", "no"))
    board.given(record, second)
    assert (record.state, record.agent) == ("cancelled", "crew/1")


# Shards that are lost, or handed over, meanwhile.


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The worker that gives out the task of body 100 does not reach the server from then on, until `cut` is cleared."""
    away: dict[str, Any] = {}
    send = Producer.send

    def through(call: Any) -> Any:
        async def reach(self: MemoryBroker, *arguments: Any, **named: Any) -> Any:
            while away.get("broker") is self:
                await asyncio.sleep(0.05)
            return await call(self, *arguments, **named)

        return reach

    for name, call in inspect.getmembers(MemoryBroker, inspect.iscoroutinefunction):
        monkeypatch.setattr(MemoryBroker, name, through(call))

    async def cutting(self: Producer, shard: str, message: tuple[Any, ...], wait_s: float | None = None) -> None:
        if len(message) > 5 and message[5] == TO_TASK and bytes(message[2]) == b"\x64" and "broker" not in away:
            away["broker"] = self._broker
        await send(self, shard, message, wait_s)

    monkeypatch.setattr(Producer, "send", cutting)
    return away


@fleet_test(app, workers=2, shards=4, lease_ms=1000)
async def test_an_agent_is_free_again_though_its_tasks_home_was_lost_while_the_task_was_on_its_way(
    fleet: Fleet, cut: dict[str, Any]
) -> None:
    await fleet.spawn("crew", keys=["1"])
    for number in range(8):
        await fleet.client.run("crew", "add", number)
    task = await fleet.client.submit("crew", "add", 100, timeout=60)
    await asyncio.sleep(10)
    assert cut
    cut["broker"] = None
    assert await task.result(int) == 101
    await asyncio.sleep(60)
    for number in range(20):  # Whichever worker keeps them.
        assert await fleet.client.run("crew", "add", number, int) == number + 1


def _key(fleet: Fleet, type: str, shard: str) -> str:
    return next(f"k{number}" for number in range(99) if fleet.client.shard(f"{type}/k{number}") == shard)


@pytest.mark.parametrize(("home", "other"), [("0", "1"), ("1", "0")], ids=["0", "1"])
@fleet_test(app, shards=2, lease_ms=1000, max_depth=600, mailbox=64)
async def test_a_hand_over_does_not_wait_for_room_in_another_shard(fleet: Fleet, home: str, other: str) -> None:
    client = fleet.client
    busy = f"other/{_key(fleet, 'other', other)}"
    await fleet.spawn("other", keys=[_key(fleet, "other", other)])
    await fleet.spawn("crew", keys=[_key(fleet, "crew", other)])
    await client.run("crew", "add", 0)  # So it is known.
    near = _key(fleet, "other", home)
    await fleet.spawn("other", keys=[near])

    async def fill() -> None:
        for _ in range(800):
            await client.send(busy, "wait", 100.0, ttl=150)

    async with asyncio.TaskGroup() as group:
        group.create_task(fill())
        await asyncio.sleep(1)
        key = next(f"t{number}" for number in range(99) if home_of(f"t{number}", 2) == home)
        task = await client.submit("crew", "add", 5, key=key, timeout=3600)
        await asyncio.sleep(1)
        assert [view.state for view in await client.tasks("queued")] == ["queued"], "there is no room for it"
        await fleet.start_worker()
        await asyncio.sleep(1)
        assert await client.ask(f"other/{near}", "add", 7, int, timeout=10) == 8
        assert await task.result(int) == 6
        await fleet.quiet()
    assert runs[5] <= 2, "what is in a batch already goes out when there is room, and the first outcome counts"
    assert [view.state for view in await client.tasks()] == ["done"]


@fleet_test(app, shards=2, lease_ms=1000)
async def test_what_a_hand_over_did_not_wait_for_ends_once(fleet: Fleet, late: None) -> None:
    await fleet.spawn("crew", count=4)
    await fleet.client.run("crew", "add", 0)
    ids = await fleet.client.submit_many("crew", "wait", [10.0] * 4, key="k")
    await asyncio.sleep(0.5)
    await fleet.start_worker()
    await asyncio.sleep(60)
    assert log.count("done") > 4, "messages were appended, and their next owner did not know"
    for id in ids:
        assert await (await fleet.client.task(id)).result(str)
    await fleet.quiet()
    assert Counter(view.state for view in await fleet.client.tasks()) == {"done": 4}
    records = [await fleet.client.broker.tasks(shard) for shard in fleet.client.shard_names]
    assert all(id.startswith(PREFIX) for of_shard in records for id in of_shard)
    for number in range(20):
        assert await fleet.client.run("crew", "add", number, int) == number + 1
