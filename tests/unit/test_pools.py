"""Warm pools: set-up is done before an agent is wanted, once for each instance, within the pool's bounds."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import pytest

from swell import Agent, App, AppError, Crash, PlanAborted, handler
from swell.backoff import RESTART
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
        await pools.close(1)
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
            await pools.close(1)
        assert len(discarded) == 40

    run_in_virtual_time(main)


class Trying(Agent):
    """Its set-up, or its end, does what the test says."""

    preparing: ClassVar[list[BaseException | float]] = []
    discarding: ClassVar[list[BaseException | float]] = []
    tries: ClassVar[list[str]] = []

    async def _do(self, what: list[BaseException | float]) -> None:
        for one in what:
            if isinstance(one, BaseException):
                raise one
            await asyncio.sleep(one)

    async def prepare(self) -> None:
        self.tries.append("prepare")
        await self._do(self.preparing)

    async def started(self, url: str) -> None: ...

    async def discarded(self) -> None:
        self.tries.append("discarded")
        await self._do(self.discarding)


@pytest.fixture
def trying(monkeypatch: pytest.MonkeyPatch) -> type[Trying]:
    for name in ("preparing", "discarding", "tries"):
        monkeypatch.setattr(Trying, name, [])
    return Trying


def app_trying(**options: Any) -> App:
    app = App("tests")
    app.agent("trying", **options)(Trying)
    return app


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3), ValueError("no browser")])
def test_whatever_a_set_up_raises_it_is_tried_ever_more_slowly_and_ends_nobody(
    trying: type[Trying], error: BaseException
) -> None:
    async def main() -> None:
        trying.preparing.append(error)
        pools = Pools(app_trying(warm=4), Recorder("test"))
        async with asyncio.TaskGroup() as group:
            pools.attach(group)
            await asyncio.sleep(60)
            assert 8 <= len(trying.tries) < 100
            assert pools.ready() == (True, "trying: 0 warm"), "a worker that can do without is ready"
            trying.preparing.clear()
            await asyncio.sleep(60)
            assert pools.count() == 4
            await pools.close(1)

    run_in_virtual_time(main)


def test_set_ups_that_fail_together_are_one_failure(trying: type[Trying]) -> None:
    async def main() -> None:
        trying.preparing += [0.5, ValueError("no browser")]
        pools = Pools(app_trying(warm=16), Recorder("test"))
        async with asyncio.TaskGroup() as group:
            pools.attach(group)
            await asyncio.sleep(0.51)
            assert len(trying.tries) == 16
            trying.preparing.clear()
            await asyncio.sleep(RESTART.first_s)
            assert pools.count() == 16, "the second try comes after the first wait, not the sixteenth"
            await pools.close(1)

    run_in_virtual_time(main)


@pytest.mark.parametrize("what", [asyncio.CancelledError(), SystemExit(3), ValueError("stuck"), 1e6])
def test_an_instance_that_cannot_be_let_go_holds_nobody_up(trying: type[Trying], what: BaseException | float) -> None:
    async def main() -> None:
        trying.discarding.append(what)
        app = app_trying(warm=(1, 4), timeout=None)
        pools = Pools(app, Recorder("test"))
        async with asyncio.TaskGroup() as group:
            pools.attach(group)
            await asyncio.sleep(1)
            for _ in range(4):
                pools.take(app.types["trying"])
            await asyncio.sleep(60)
            assert pools.count() == 1, "it shrank"
            assert pools.take(app.types["trying"])
            await asyncio.sleep(0.5)
            assert pools.count() == 1, "and refills"
            began = time.monotonic()
            await pools.close(5)
            assert time.monotonic() - began < 6
        assert trying.tries.count("discarded") == 4

    run_in_virtual_time(main)


def test_a_set_up_that_hangs_holds_up_no_drain(trying: type[Trying]) -> None:
    async def main() -> None:
        trying.preparing.append(1e6)
        pools = Pools(app_trying(warm=4, timeout=None), Recorder("test"))
        async with asyncio.TaskGroup() as group:
            pools.attach(group)
            await asyncio.sleep(60)
            assert pools.ready() == (False, "trying: 0 of 4 warm")
            await pools.close(5)

    run_in_virtual_time(main)


def test_arguments_that_do_not_fit_cost_no_warm_instance(trying: type[Trying]) -> None:
    @fleet_test(app_trying(warm=2))
    async def run(fleet: Fleet) -> None:
        await asyncio.sleep(1)
        with pytest.raises(PlanAborted):
            await fleet.spawn("trying", keys=["a"], args=17)
        await asyncio.sleep(1)
        assert trying.tries == ["prepare", "prepare"]

    run()


@fleet_test(app_of(warm=(0, 30)), workers=2)
async def test_a_takeover_takes_what_is_warm_and_each_agent_is_set_up_once(fleet: Fleet) -> None:
    await fleet.spawn("slow", count=20)
    await asyncio.sleep(5 * SET_UP_S)
    await fleet.kill_worker()
    for agent in await fleet.client.agents("slow", limit=20):
        assert await fleet.client.ask(agent.id, "uses", timeout=600) == [agent.id, 1]


@pytest.mark.parametrize("warm", [-1, (3, 2), (0, 1_000_000)])
def test_bounds_that_cannot_be_are_refused_where_they_are_declared(warm: Any) -> None:
    with pytest.raises(AppError, match="warm"):
        app_of(warm=warm)
