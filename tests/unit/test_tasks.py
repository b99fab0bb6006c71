"""Work for whichever agent is free: shared out by who is free, bounded, and given to another if an agent ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from swell import Agent, App, HandlerFailed, Outcome, UnknownAgent, WrongBody, handler
from swell.testing import Fleet, fleet_test

app = App("tasks")
#: How many bodies each agent had.
worked: Counter[str] = Counter()


@app.agent("crew", timeout=None, max_attempts=1)
class Worker(Agent):
    @handler
    async def work(self, body: float) -> list[Any]:
        """Take so many seconds; negative ones fail. Key 0 is a hundred times slower than the others."""
        worked[self.key] += 1
        await asyncio.sleep(abs(body) * (100 if self.key == "0" else 1))
        if body < 0:
            raise ValueError("no")
        return [self.key, body]


@fleet_test(app, workers=2)
async def test_whoever_is_free_takes_the_next_and_a_slow_agent_holds_up_nothing(fleet: Fleet) -> None:
    worked.clear()
    await fleet.spawn("crew", keys=[str(n) for n in range(10)])
    loop = asyncio.get_running_loop()
    began = loop.time()
    places = []
    async for outcome in fleet.client.map("crew", "work", [1.0] * 500, list[Any], timeout=1000):
        assert outcome.result[0] == outcome.agent.partition("/")[2]
        places.append(outcome.place)
    assert sorted(places) == list(range(500))
    assert 100 <= loop.time() - began < 110, "the slow one has one, the others the rest: 499 of a second by nine"
    assert worked["0"] == 1
    assert all(50 <= worked[str(n)] <= 60 for n in range(1, 10)), worked


@fleet_test(app)
async def test_outcomes_come_in_order_if_asked_and_failures_are_outcomes(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1", "2", "3"])
    bodies = [5.0, -1.0, 1.0, 3.0, 1.0]
    found = [one async for one in fleet.client.map("crew", "work", bodies, list[Any], ordered=True)]
    assert [one.place for one in found] == [0, 1, 2, 3, 4]
    assert [isinstance(one.error, HandlerFailed) for one in found] == [False, True, False, False, False]
    with pytest.raises(HandlerFailed):
        _ = found[1].result
    as_they_come = [one.place async for one in fleet.client.map("crew", "work", bodies)]
    assert as_they_come[-1] == 0


@fleet_test(app)
@pytest.mark.parametrize("ordered", [True, False])
async def test_bodies_are_taken_only_as_agents_and_the_caller_get_free(fleet: Fleet, ordered: bool) -> None:
    await fleet.spawn("crew", keys=["1", "2", "3"])
    taken = 0

    def bodies() -> Iterator[float]:
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield 1.0

    seen = 0
    mapped = fleet.client.map("crew", "work", bodies(), ordered=ordered)
    async for _ in mapped:
        seen += 1
        await asyncio.sleep(50)
        assert taken <= seen + 3
        if seen == 20:
            break
    await mapped.aclose()  # type: ignore[attr-defined]
    await fleet.quiet(within=60)


@fleet_test(app)
async def test_left_early_it_takes_back_what_is_under_way(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1", "2"])
    mapped = fleet.client.map("crew", "work", [1.0, 3600.0, 3600.0], timeout=7200)
    first: Outcome[Any] = await anext(mapped)
    assert first.place == 0
    await mapped.aclose()  # type: ignore[attr-defined]
    await fleet.quiet(within=60)


@fleet_test(app)
async def test_what_an_agent_that_ended_was_to_do_is_done_by_another(fleet: Fleet) -> None:
    worked.clear()
    await fleet.spawn("crew", keys=["1", "2"])
    mapped = fleet.client.map("crew", "work", [10.0] * 10, list[Any], timeout=1000)
    done = [await anext(mapped)]
    await fleet.client.terminate("crew/1")
    done += [outcome async for outcome in mapped]
    assert sorted(one.place for one in done if one.error is None) == list(range(10))
    assert worked["2"] > worked["1"]


@fleet_test(app)
async def test_when_all_have_ended_new_ones_are_found_or_the_rest_fails(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1", "2"])
    mapped = fleet.client.map("crew", "work", [10.0] * 6, list[Any], timeout=1000)
    done = [await anext(mapped)]
    await fleet.client.terminate(type="crew")
    await fleet.spawn("crew", keys=["3"])
    done += [outcome async for outcome in mapped]
    assert [one.error for one in done] == [None] * 6
    assert {one.agent for one in done} >= {"crew/3"}

    mapped = fleet.client.map("crew", "work", [10.0] * 6, list[Any], timeout=1000)
    done = [await anext(mapped)]
    await fleet.client.terminate(type="crew")
    done += [outcome async for outcome in mapped]
    assert sum(isinstance(one.error, UnknownAgent) for one in done) >= 4


@fleet_test(app)
async def test_one_task_goes_to_the_least_busy_agent(fleet: Fleet) -> None:
    await fleet.spawn("crew", keys=["1", "2", "3"])
    for key, count in (("1", 5), ("2", 3)):
        await fleet.client.send_many((f"crew/{key}", "work", 1000.0) for _ in range(count))
    assert await fleet.client.run("crew", "work", 1.0, list[Any]) == ["3", 1.0]
    with pytest.raises(HandlerFailed):
        await fleet.client.run("crew", "work", -1.0)
    with pytest.raises(UnknownAgent, match="no agent of type 'nobody' can be asked: spawn some"):
        await anext(fleet.client.map("nobody", "work", [1.0]))
    with pytest.raises(WrongBody, match="max_in_flight: 0"):
        fleet.client.map("crew", "work", [1.0], max_in_flight=0)
