"""What tasks leave behind: nothing that waits, no time that is noted, no body that nobody needs."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter
from typing import Any

import pytest
from msgspec import Raw

from swell import Agent, App, CallError, Client, Expired, handler
from swell.task import PREFIX, Step, TaskRequest
from swell.testing import Fleet, fleet_test
from swell_worker import task_board
from swell_worker.tasks import Tasks


class Crew(Agent):
    @handler
    async def add(self, body: int) -> int:
        return body + 1

    @handler
    async def wait(self, body: float) -> int:
        await asyncio.sleep(body)
        return 1

    @handler
    async def size(self, body: str) -> int:
        return len(body)

    @handler
    async def grow(self, body: int) -> str:
        return "x" * body


app = App("tests")
for name in ("crew", "other"):
    app.agent(name, timeout=None)(Crew)


@pytest.fixture
def keepers(monkeypatch: pytest.MonkeyPatch) -> list[Tasks]:
    """The tasks of each worker, in the order in which they were started."""
    made: list[Tasks] = []
    init = Tasks.__init__

    def note(self: Tasks, fleet: Any) -> None:
        init(self, fleet)
        made.append(self)

    monkeypatch.setattr(Tasks, "__init__", note)
    return made


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often agents of a type were looked for."""
    counted: Counter[str] = Counter()
    agents = Client.agents

    async def count(self: Client, type: str = "", *arguments: Any, **named: Any) -> Any:
        counted[type] += 1
        return await agents(self, type, *arguments, **named)

    monkeypatch.setattr(Client, "agents", count)
    return counted


@fleet_test(app, shards=1)
async def test_what_has_ended_does_not_wait_and_nobody_is_looked_for(
    fleet: Fleet, keepers: list[Tasks], looks: Counter[str]
) -> None:
    await fleet.client.submit_many("crew", "add", range(100), ttl=5, keep=1)
    cancelled = await fleet.client.submit("crew", "add", 1)
    await asyncio.sleep(1)
    assert keepers[0].count() == 101
    await asyncio.sleep(5)
    assert keepers[0].count() == 1
    await cancelled.cancel()
    assert keepers[0].count() == 0
    await asyncio.sleep(5)
    looks.clear()
    await asyncio.sleep(600)
    assert not looks


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_board, "KEEP_ENDED", 10)
    monkeypatch.setattr(task_board, "MOST_BYTES", 1_000_000)


@fleet_test(app, shards=1)
async def test_no_time_is_noted_of_what_is_forgotten(fleet: Fleet, few: None, keepers: list[Tasks]) -> None:
    await fleet.spawn("crew", count=3)
    for number in range(300):
        await fleet.client.run("crew", "add", number, ttl=600, keep=3600)
    (board,) = keepers[0]._boards.values()
    assert len(board.kept) == 10
    assert len(board._times) <= 2 * 11 + task_board.SPARE_TIMES
    assert {id for _, id in board._times} >= board.kept.keys(), "those that are kept are forgotten in time"
    await asyncio.sleep(3601)
    assert await fleet.client.tasks() == []


@fleet_test(app, shards=1)
async def test_a_later_step_that_nobody_begins_in_time_expires(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1"])
    began = asyncio.get_running_loop().time()
    late_already = await fleet.client.chain([("crew", "wait"), ("other", "add")], 20.0, ttl=10, timeout=600)
    with pytest.raises(Expired):
        await late_already.result()
    assert 20 <= asyncio.get_running_loop().time() - began < 21
    waits = await fleet.client.chain([("crew", "wait"), ("other", "add")], 5.0, ttl=10, timeout=600)
    with pytest.raises(Expired):
        await waits.result()
    assert 30 <= asyncio.get_running_loop().time() - began < 31


@fleet_test(app, shards=1)
async def test_the_bodies_of_chains_are_bounded(fleet: Fleet, few: None, keepers: list[Tasks]) -> None:
    await fleet.spawn("crew", keys=["1"])
    client = fleet.client
    chains = []
    for _ in range(6):
        chains.append(await client.chain([("crew", "size"), ("other", "add")], "x" * 300_000))
        await fleet.quiet()
    (board,) = keepers[0]._boards.values()
    live = board.live.values()
    assert len(live) == 6, "of those at their second step the first body is not kept"
    assert sum(len(one.body) + len(one.request.body) for one in live) < 100
    for chain in chains:
        await chain.cancel()
    waiting = [await client.chain([("other", "size"), ("other", "add")], "x" * 300_000) for _ in range(4)]
    with pytest.raises(CallError, match="4 tasks wait or run in shard 0"):
        await client.run("crew", "add", 1)
    records = await client.broker.tasks("0")
    assert all(300_000 < len(records[PREFIX + one.id]) < 301_000 for one in waiting), "each body once"


@fleet_test(app, shards=1)
async def test_a_body_holds_nothing_of_what_came_with_it(fleet: Fleet) -> None:
    client = fleet.client
    await fleet.spawn("crew", keys=["1"])
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(20):
        request = TaskRequest(f"t{number}", [Step("other", "add")], Raw(b"\x01"))
        both = [("0", ("$shard", "$task", request, 0)), ("0", ("crew/1", "size", "x" * 900_000, 0))]
        await client.producer.send_many(both)
        await fleet.quiet()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(await client.tasks("queued")) == 20
    assert after - before < 5_000_000


@fleet_test(app, shards=1)
async def test_results_between_steps_are_bounded(fleet: Fleet, few: None) -> None:
    await fleet.spawn("crew", keys=["1"])
    steps = [("crew", "grow"), ("other", "size")]
    chains = [await fleet.client.chain(steps, 300_000, key=f"k{n}", timeout=600) for n in range(8)]
    await fleet.quiet()
    states = Counter(view.state for view in await fleet.client.tasks())
    assert states == {"queued": 6, "failed": 2}
    (failed,) = [view for view in await fleet.client.tasks("failed") if view.id == "k7"]
    assert "step 1 of task k7 is done, but shard 0 holds" in failed.reason
    assert "submit fewer at a time" in failed.reason
    await fleet.spawn("other", keys=["1"])
    assert await chains[0].result(int) == 300_000
