"""The test kit: what it finds, and that waits are over at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from swell import Agent, App, AppError, Crash, Expired, HandlerFailed, handler
from swell.testing import Fleet, fleet_test, run_in_virtual_time, running

app = App("kit")


@app.agent("counter", max_attempts=10)
class Counter(Agent):
    """Notes what it is sent; fails as often as it is told."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.failures = 0

    @handler
    async def note(self, body: Any) -> None:
        self.seen.append(body)

    @handler
    async def told(self) -> list[Any]:
        return self.seen

    @handler
    async def fail(self, body: int) -> int:
        """Fail `body` times, then say how long it took, seconds."""
        if not self.failures:
            self.began = time.monotonic()
        self.failures += 1
        if self.failures <= body:
            raise ValueError("not yet")
        return round(time.monotonic() - self.began)

    @handler
    async def leave_a_note(self, body: str) -> None:
        try:
            async with self.facts.lock("held", ttl=5):
                await asyncio.sleep(20)
        finally:
            await self.facts.put("note", "from the dead")
            await self.send(f"patient/{body}", "note", "once")

    @handler
    async def rest(self, body: float) -> float:
        await asyncio.sleep(body)
        return body

    @handler
    async def block(self, body: float) -> float:
        """A thread that takes real time."""
        sleep = time.sleep
        began = time.perf_counter()
        await asyncio.to_thread(sleep, body)
        return time.perf_counter() - began

    @handler
    async def crash(self) -> None:
        raise Crash("what it stands on")

    @handler
    async def hang(self) -> None:
        await asyncio.Event().wait()


@app.agent("patient", timeout=None)
class Patient(Counter):
    """Has no time limit."""


@fleet_test(app, workers=2)
async def test_messages_are_handled_in_order_and_quiet_says_when_all_are(fleet: Fleet) -> None:
    await fleet.spawn("counter", count=20)
    ids = [agent.id for agent in await fleet.client.agents("counter", limit=20)]
    assert len(ids) == 20
    await fleet.client.send_many((id, "note", n) for n in range(50) for id in ids)
    await fleet.quiet()
    for id in ids:
        assert await fleet.client.ask(id, "told") == list(range(50))
    assert await fleet.dead() == []


@fleet_test(app)
async def test_a_time_limit_and_hours_of_waiting_take_no_time(fleet: Fleet) -> None:
    real = time.perf_counter()
    await fleet.spawn("counter", keys=["a"])
    await fleet.spawn("patient", keys=["a"])
    with pytest.raises(HandlerFailed, match="ran longer than 30 s"):
        await fleet.client.ask("counter/a", "rest", 1e6, timeout=1e5)
    began = time.time()
    assert await fleet.client.ask("patient/a", "rest", 3600.0, timeout=1e5) == 3600
    assert 3600 <= time.time() - began < 3610
    assert time.perf_counter() - real < 60


@fleet_test(app)
async def test_backoff_follows_the_virtual_clock(fleet: Fleet) -> None:
    await fleet.spawn("counter", keys=["a"])
    assert await fleet.client.ask("counter/a", "fail", 8, timeout=1e5) > 5


@fleet_test(app)
async def test_messages_expire_by_the_virtual_clock(fleet: Fleet) -> None:
    await fleet.spawn("patient", keys=["a"])
    await fleet.client.send("patient/a", "rest", 100.0)
    with pytest.raises(Expired):
        await fleet.client.ask("patient/a", "told", ttl=50, timeout=1000)


@fleet_test(app, workers=2)
async def test_what_a_killed_worker_held_is_handled_by_the_next(fleet: Fleet) -> None:
    await fleet.spawn("patient", keys=["a"])
    worker = (await fleet.client.agents("patient"))[0].worker
    await fleet.client.send("patient/a", "rest", 100.0)
    await fleet.client.send("patient/a", "note", 1)
    await fleet.kill_worker(worker)
    assert worker not in fleet.workers
    await fleet.quiet()
    assert await fleet.client.ask("patient/a", "told") == [1]
    (agent,) = await fleet.client.agents("patient")
    assert (agent.worker, agent.restarts) == (*fleet.workers, 1)


@fleet_test(app, workers=2)
async def test_nothing_is_heard_of_a_killed_worker_whatever_its_handlers_do_at_their_end(fleet: Fleet) -> None:
    await fleet.spawn("patient", keys=["a", "b"])
    workers = {agent.id: agent.worker for agent in await fleet.client.agents("patient")}
    await fleet.client.send("patient/a", "leave_a_note", "b")
    await asyncio.sleep(1)
    await fleet.kill_worker(workers["patient/a"])
    assert await fleet.client.facts.get("note") is None
    began = time.monotonic()
    async with fleet.client.facts.lock("held"):
        assert 3 < time.monotonic() - began < 5, "its ttl gives it back, not its end"
    await asyncio.sleep(60)
    assert await fleet.client.ask("patient/b", "told", timeout=100) == ["once"]


@fleet_test(app, workers=2)
async def test_a_worker_that_is_stopped_finishes_what_runs(fleet: Fleet) -> None:
    await fleet.spawn("patient", keys=["a"])
    worker = (await fleet.client.agents("patient"))[0].worker
    resting = asyncio.ensure_future(fleet.client.ask("patient/a", "rest", 5.0))
    while (await fleet.client.agents("patient"))[0].state != "working":
        await asyncio.sleep(0.1)
    await fleet.stop_worker(worker)
    assert await resting == 5
    await fleet.start_worker()
    await fleet.client.send("patient/a", "note", 1)
    await fleet.quiet()
    assert await fleet.client.ask("patient/a", "told") == [1]


@fleet_test(app)
async def test_dead_letters_and_crashes_are_there_to_be_looked_at(fleet: Fleet) -> None:
    await fleet.spawn("counter", keys=["a"])
    await fleet.client.send("counter/a", "note", 1)
    await fleet.client.send("counter/a", "crash")
    await fleet.quiet()
    (letter,) = await fleet.dead()
    assert (letter.kind, letter.to, letter.name) == ("handler_failed", "counter/a", "crash")
    (agent,) = await fleet.client.agents("counter")
    assert agent.state == "failed"


@fleet_test(app)
async def test_what_is_not_quiet_is_named(fleet: Fleet) -> None:
    await fleet.spawn("patient", keys=["a"])
    await fleet.client.send("patient/a", "hang")
    await fleet.client.send("patient/a", "note", 1)
    with pytest.raises(
        AssertionError, match=r"not quiet within 60 s: 2 in shard \d unsettled; agents at work: patient/a"
    ):
        await fleet.quiet(within=60)


@fleet_test(app)
async def test_time_is_real_while_a_thread_works(fleet: Fleet) -> None:
    await fleet.spawn("counter", keys=["a"])
    assert await fleet.client.ask("counter/a", "block", 0.2, timeout=20) >= 0.2


@fleet_test(app, virtual_time=False, shards=2)
async def test_time_can_be_real(fleet: Fleet) -> None:
    real = time.perf_counter()
    await fleet.spawn("counter", keys=["a"])
    assert await fleet.client.ask("counter/a", "rest", 0.05) == 0.05
    assert time.perf_counter() - real >= 0.05
    assert fleet.client.shards == 2


@pytest.mark.parametrize("value", [1, 2])
@fleet_test(app)
async def test_fixtures_and_parameters_come_behind_the_fleet(fleet: Fleet, value: int, tmp_path: object) -> None:
    assert value in (1, 2)
    assert tmp_path
    assert fleet.workers == ["worker-1"]


async def test_a_fleet_runs_in_anybodys_loop() -> None:
    async with running(app, workers=3, lease_ms=2000) as fleet:
        await fleet.spawn("counter", count=3)
        await fleet.quiet(within=60)
    with pytest.raises(TypeError, match="no_such_setting"):
        async with running(app, no_such_setting=1):
            pass


def test_what_is_no_test_of_a_fleet_is_refused() -> None:
    with pytest.raises(AppError, match="async def"):
        fleet_test(app)(lambda fleet: None)  # type: ignore[arg-type, return-value]

    async def without() -> None: ...

    with pytest.raises(AppError, match="take the fleet"):
        fleet_test(app)(without)


def test_what_a_test_raises_comes_out_as_it_is() -> None:
    @fleet_test(app)
    async def fails(fleet: Fleet) -> None:
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        fails()


def test_timers_fire_in_order_and_the_clock_is_given_back() -> None:
    before = time.time

    async def main() -> list[int]:
        order: list[int] = []

        async def after(seconds: int) -> None:
            await asyncio.sleep(seconds)
            order.append(seconds)

        await asyncio.gather(*(after(seconds) for seconds in (3000, 1, 500, 86400)))
        return order

    assert run_in_virtual_time(main) == [1, 500, 3000, 86400]
    assert time.time is before
