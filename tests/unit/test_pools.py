"""Warm pools: set-up is done before an agent is wanted, once for each instance, within the pool's bounds."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from swell import Agent, App, AppError, Crash, PlanAborted, handler
from swell.instruments import Recorder
from swell.testing import Fleet, fleet_test, run_in_virtual_time
from swell_worker.pools import MOST_PREPARING, Pools

SET_UP_S = 1.0
prepared: list[str] = []
discarded: list[str] = []
trouble: list[BaseException] = []
busy: list[int] = [0, 0]


class Slow(Agent):
    async def prepare(self) -> None:
        prepared.append(self.id)
        self.used = 0
        busy[0] += 1
        busy[1] = max(busy)
        try:
            await asyncio.sleep(SET_UP_S)
        finally:
            busy[0] -= 1
        if trouble:
            raise trouble[0]

    async def started(self) -> None:
        self.used += 1

    async def discarded(self) -> None:
        discarded.append(self.id)

    @handler
    async def uses(self) -> tuple[str, int]:
        return self.id, self.used

    @handler
    async def crash(self) -> None:
        raise Crash("broken")


def app_of(**options: Any) -> App:
    app = App("tests")
    app.agent("slow", **options)(Slow)
    return app


@pytest.fixture(autouse=True)
def fresh() -> None:
    prepared.clear()
    discarded.clear()
    trouble.clear()
    busy[:] = [0, 0]


async def took_s(fleet: Fleet, *keys: str) -> float:
    """How long a spawn took, virtual seconds."""
    began = time.monotonic()
    await fleet.spawn("slow", keys=keys)
    return time.monotonic() - began


@fleet_test(app_of(warm=3))
async def test_a_spawn_takes_what_was_prepared_and_the_pool_refills(fleet: Fleet) -> None:
    await asyncio.sleep(2 * SET_UP_S)
    assert prepared == ["", "", ""], "the pool is filled before anybody asks"
    assert await took_s(fleet, "a", "b", "c") < SET_UP_S / 2
    assert await fleet.client.ask("slow/a", "uses") == ["slow/a", 1]
    await asyncio.sleep(2 * SET_UP_S)
    assert len(prepared) == 6
    assert await took_s(fleet, "d") < SET_UP_S / 2


@fleet_test(app_of())
async def test_without_a_pool_it_is_prepared_when_it_is_born(fleet: Fleet) -> None:
    await asyncio.sleep(2 * SET_UP_S)
    assert prepared == []
    assert await took_s(fleet, "a") >= SET_UP_S
    assert await fleet.client.ask("slow/a", "uses") == ["slow/a", 1]
    assert len(prepared) == 1


@fleet_test(app_of(warm=1))
async def test_more_than_are_warm_are_all_born_each_prepared_once(fleet: Fleet) -> None:
    await asyncio.sleep(2 * SET_UP_S)
    assert await took_s(fleet, *"abcde") >= SET_UP_S
    for key in "abcde":
        assert await fleet.client.ask(f"slow/{key}", "uses") == [f"slow/{key}", 1]


@fleet_test(app_of(warm=1))
async def test_an_agent_that_crashed_is_started_with_a_warm_instance(fleet: Fleet) -> None:
    await fleet.spawn("slow", keys=["a"])
    await asyncio.sleep(2 * SET_UP_S)
    before = len(prepared)
    await fleet.client.send("slow/a", "crash")
    began = time.monotonic()
    assert await fleet.client.ask("slow/a", "uses") == ["slow/a", 1]
    assert time.monotonic() - began < SET_UP_S or len(prepared) > before


@fleet_test(app_of(warm=(2, 6)))
async def test_the_pool_follows_what_was_wanted_lately_and_shrinks_again(fleet: Fleet) -> None:
    await asyncio.sleep(2 * SET_UP_S)
    await fleet.spawn("slow", count=20)
    await asyncio.sleep(3 * SET_UP_S)
    made = len(prepared) - 20
    assert made == 6, "twenty were wanted, and the pool holds six at most"
    await asyncio.sleep(60)
    assert len(discarded) == 4, "back to the least"
    assert len(prepared) - 20 == 6


@fleet_test(app_of(warm=2))
async def test_a_set_up_that_fails_is_tried_again_and_the_plan_is_told_why(fleet: Fleet) -> None:
    trouble.append(RuntimeError("no browser"))
    await asyncio.sleep(3 * SET_UP_S)
    with pytest.raises(PlanAborted, match="failed"):
        await fleet.spawn("slow", keys=["a"])
    assert "no browser" in next(iter((await fleet.client.plans())[0].failures.values()))
    trouble.clear()
    await asyncio.sleep(600)
    assert await took_s(fleet, "b") < SET_UP_S / 2


async def test_what_was_not_taken_is_let_go_when_the_worker_stops() -> None:
    pools = Pools(app_of(warm=40), Recorder("test"))
    async with asyncio.TaskGroup() as group:
        pools.attach(group)
        assert pools.ready() == (False, "slow: 0 of 40 warm")
        await pools.close()
    assert discarded == []


def test_it_prepares_many_at_a_time_and_not_too_many_and_says_when_it_is_full() -> None:
    async def main() -> None:
        app, recorder = app_of(warm=40), Recorder("test")
        pools = Pools(app, recorder)
        async with asyncio.TaskGroup() as group:
            pools.attach(group)
            await asyncio.sleep(10 * SET_UP_S)
            assert busy[1] == MOST_PREPARING
            assert pools.ready() == (True, "slow: 40 warm")
            type = app.types["slow"]
            assert all(pools.take(type) is not None for _ in range(40))
            assert pools.take(type) is None
            told = recorder.take()
            assert told is not None
            assert (told.counts["pool_hits"], told.counts["pool_misses"]) == ({"slow": 40}, {"slow": 1})
            await asyncio.sleep(10 * SET_UP_S)
            await pools.close()
        assert len(discarded) == 40

    run_in_virtual_time(main)


@pytest.mark.parametrize("warm", [-1, (3, 2), (0, 1_000_000)])
def test_bounds_that_cannot_be_are_refused_where_they_are_declared(warm: Any) -> None:
    with pytest.raises(AppError, match="warm"):
        app_of(warm=warm)
