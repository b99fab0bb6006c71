"""Faults of the manager's and the metrics service's processes, and the orderly end of all."""

from __future__ import annotations

import asyncio
import random
import statistics
import time

import httpx
import pytest

from swell import Client
from swell.http import GRACE_S
from tests.chaos.conftest import MakeSystem
from tests.chaos.report import Rows
from tests.chaos.system import PATIENCE_S, Load, System
from tests.integration.births import Temper, births
from tests.integration.services import Service

pytestmark = pytest.mark.timeout(900)
#: How long a stopping service may take, seconds; the setting `drain_s`.
DRAIN_S = 10


async def leader(system: System) -> Service:
    """The manager that leads."""

    async def leads() -> bool:
        return await system.owner("control") is not None

    await system.until(leads, "a manager leads")
    found = await system.owner("control")
    assert found is not None
    return found


async def test_2_a_plan_whose_manager_is_killed_is_completed_and_each_agent_starts_once(
    system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    kills = 10 if long else 2
    count = 1000
    times: list[float] = []
    began = time.monotonic()
    async with system(app="tests.integration.births:app") as one:
        await one.begin(workers=2, managers=2)
        for number in range(kills):
            plan = await one.client.spawn(
                "child", count, wave_size=count, max_in_flight=100, args=Temper(takes_s=0.05), timeout=PATIENCE_S
            )
            killed_ns = ready = 0
            at = rng.randrange(100, 800)
            async for progress in plan:
                if not killed_ns and progress.ready >= at:
                    assert progress.state == "running"
                    ready = progress.ready
                    killed_ns = await one.kill(await leader(one))
                    one.start("manager")
                elif killed_ns and progress.ready > ready and len(times) == number:
                    times.append((time.monotonic_ns() - killed_ns) / 1e9)
            assert (plan.progress.state, plan.progress.ready, plan.progress.failed) == ("done", count, 0)
            assert len(times) == number + 1
            await one.all_ready(*one.running("manager"))
        started = births(one.directory)
        assert started == dict.fromkeys((f"child/{number:04d}" for number in range(kills * count)), 1)
        verdict = await one.settled()
    seconds = time.monotonic() - began
    rows.add("2 kill -9 of the leading manager", verdict, kills, seconds, times, agents_started=len(started))


async def test_3_while_metrics_is_killed_nothing_is_late_and_its_counters_are_right_again(
    system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    kills = 10 if long else 3
    away: list[tuple[int, int]] = []
    async with system() as one:
        await one.begin(workers=2, metrics=1)
        agents = await one.spawn(100)
        async with one.load(agents, Load(rate=2000, asks=4)) as load:
            for _ in range(kills):
                await asyncio.sleep(rng.uniform(0.3, 1.5))
                killed_ns = await one.kill(one.running("metrics")[0])
                await asyncio.sleep(rng.uniform(0.2, 1.0))
                await one.all_ready(one.start("metrics"))
                away.append((killed_ns, time.monotonic_ns()))
        verdict = await one.settled()
        # Exact, not merely close: a report counts once, whoever died holding it.
        handled = one.account().count()
        await one.until(lambda: one.counted("handled", handled), f"{handled} messages counted")
        await asyncio.sleep(1.5)  # Another report of each process: it must not grow any more.
        assert await one.counted("handled", handled)
    assert not load.errors
    assert verdict.repeats == 0
    during = [s for at, s in load.asked if any(since <= at <= until for since, until in away)]
    besides = [s for at, s in load.asked if not any(since <= at <= until for since, until in away)]
    # Medians: a busy machine delays some whoever is away. One that waited for the service would wait for seconds.
    assert statistics.median(during) < 3 * statistics.median(besides) + 0.02
    rows.add(
        "3 kill -9 of the metrics service",
        verdict,
        kills,
        load.seconds,
        [(until - since) / 1e9 for since, until in away],
        ask_ms_while_away=round(statistics.median(during) * 1000, 2),
        ask_ms_besides=round(statistics.median(besides) * 1000, 2),
    )


async def stop(service: Service) -> float:
    """SIGTERM; returns how long it took to end, seconds, and checks that it ended well."""
    began = time.monotonic()
    code = await service.stop()
    took_s = time.monotonic() - began
    assert code == 0, service.log.read_text()
    assert took_s < DRAIN_S
    left = [line for line in service.logged() if line["level"] in ("error", "critical")]
    assert not left, left
    return took_s


async def test_11_a_rolling_restart_of_everything_fails_no_call_and_repeats_no_message(
    system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    rounds = 4 if long else 1
    took: list[float] = []
    plans = 0

    async def planning(client: Client, stopping: asyncio.Event) -> None:
        nonlocal plans
        while not stopping.is_set():
            plan = await client.spawn("mayfly", 5)
            assert (await plan.wait(PATIENCE_S)).ready == 5
            assert (await client.terminate(plan=plan.id)).terminated == 5
            plans += 1

    async with system(drain_s=DRAIN_S) as one:
        await one.begin(workers=2, managers=2, metrics=2)
        agents = await one.spawn(100) + await one.spawn(20, "slow")
        async with one.load(agents, Load(rate=2000, asks=4)) as load, asyncio.TaskGroup() as group:
            group.create_task(planning(await one.connect(), load.stop))
            for _ in range(rounds):
                everything = [*one.running("worker"), *one.running("manager"), *one.running("metrics")]
                for service in rng.sample(everything, len(everything)):
                    role = one.role(service)
                    await one.all_ready(one.start(role))
                    took.append(await stop(service))
                    await one.all_ready(*one.running(role))
            load.stop.set()
        verdict = await one.settled()
        took += [await stop(service) for service in one.services if service.process.poll() is None]
    assert not load.errors
    assert verdict.repeats == 0
    assert not verdict.overlapping
    rows.add(
        "11 SIGTERM of each service in turn",
        verdict,
        len(took),
        load.seconds,
        took,
        asks=len(load.asked),
        plans=plans,
    )


async def test_11_a_manager_that_is_stopped_answers_what_it_was_asked_before(system: MakeSystem) -> None:
    async with system(app="tests.integration.fleet:app") as one:
        await one.begin(workers=1, managers=2)
        await one.spawn(1, "waiter", keys=["1"])
        await one.spawn(1, "gate", keys=["1"])
        leading = await leader(one)
        async with (
            httpx.AsyncClient(base_url=await leading.url(), timeout=PATIENCE_S) as http,
            asyncio.TaskGroup() as group,
        ):
            asking = group.create_task(http.post("/v1/agents/waiter/1/ask", json={"name": "wait", "body": 7}))
            await one.until(lambda: waits(one), "the agent has the question")
            stopping = group.create_task(leading.stop())
            await asyncio.sleep(2 * GRACE_S)
            # The other leads already, while this one still answers.
            assert await leader(one) is not leading
            await one.client.send("gate/1", "open", "1")
            assert (await asking).status_code == 200
            assert await stopping == 0


async def waits(system: System, messages: int = 1) -> bool:
    """Whether so many messages are not settled."""
    return await system.depth() == messages


async def test_11_a_manager_that_is_stopped_ends_the_agents_that_it_is_ending(system: MakeSystem) -> None:
    async with system(app="tests.integration.fleet:app") as one:
        await one.begin(workers=1, managers=2)
        await one.spawn(1, "waiter", keys=["1"])
        await one.spawn(1, "gate", keys=["1"])
        leading = await leader(one)
        await one.client.send("waiter/1", "wait", 7)
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(one.client.terminate("waiter/1"))
            # What the agent waits for, the message that ends it, and the command.
            await one.until(lambda: waits(one, 3), "the agent is told to end")
            stopping = group.create_task(leading.stop())
            await asyncio.sleep(0.5)
            await one.client.send("gate/1", "open", "1")
            answer = await ending
            assert (answer.terminated, answer.failed) == (1, {})
            assert await stopping == 0
