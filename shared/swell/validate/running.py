"""Running one scenario: nothing counts that a receiver did not handle."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from msgspec import Struct

from swell.bench.agents import TYPE, Account, Item
from swell.bench.parts import Run, Tell, items, open_loop
from swell.bench.result import Delivery, quantiles
from swell.bench.system import System, drained
from swell.histogram import Histogram
from swell.validate.scenarios import Scenario

#: Tasks under way at a time, and bytes of a body.
ASKERS = 100
BODY = 100
#: A row of a long scenario covers so many seconds.
SPAN_S = 10.0


class Measured(Struct, omit_defaults=False):
    """What a scenario did.

    Attributes:
        name: the scenario's.
        values: of the targets' names, those that were measured.
        figures: what else was seen.
        delivery: the account.
        rows: one for each span of a long scenario.
    """

    name: str
    values: dict[str, float]
    figures: dict[str, float]
    delivery: Delivery
    rows: list[dict[str, Any]] = []


async def run(system: System, scenario: Scenario, tell: Tell) -> Measured:
    """Run a scenario to its end."""
    if scenario.singles or scenario.parallel:
        return await _spawns(system, scenario, tell)
    return await _load(system, scenario, tell)


async def _spawns(system: System, scenario: Scenario, tell: Tell) -> Measured:
    """Agents spawned one by one, or by many calls at once; each is timed from its request until it is ready."""
    client = system.client
    begun = Run(system, 0)
    await begun.begin()
    times = Histogram()
    plans: list[str] = []

    async def one() -> None:
        began = time.perf_counter_ns()
        plan = await client.spawn(TYPE, 1)
        await plan.wait()
        times.record((time.perf_counter_ns() - began) // 1000)
        plans.append(plan.id)
        tell(len(plans), scenario.singles + scenario.parallel)

    for _ in range(scenario.singles):
        await one()
    await asyncio.gather(*(one() for _ in range(scenario.parallel)))
    begun.sent = scenario.singles + scenario.parallel
    ended = sum([(await client.terminate(plan=plan)).terminated for plan in plans])
    found = await begun.end(Account(times.count), ended)
    q = quantiles(times.sparse())
    values = {"spawn_p95_ms": q.p95_ms, "success": times.count / begun.sent}
    return Measured(scenario.name, values, {"spawn_p50_ms": q.p50_ms, "spawn_max_ms": q.max_ms}, found)


async def _load(system: System, scenario: Scenario, tell: Tell) -> Measured:
    """Agents in waves, then messages and tasks beside each other."""
    before = await system.memory_mib()
    run = Run(system, scenario.agents)
    began = time.perf_counter()
    await run.begin()
    spawned_s = time.perf_counter() - began
    after = await system.memory_mib()
    # One message each, of another sender: the first call on a connection is not what is measured.
    run.sent = await run.client.send_many(items(run.ids, len(run.ids), BODY, sender=1))
    await drained(run.client)
    tasks = asyncio.ensure_future(_tasks(run, scenario.tasks))
    seen, rows, took_s = await (_paced(run, scenario, system, tell) if scenario.rate else _flood(run, scenario))
    right, times = await tasks
    run.sent += scenario.tasks
    asked = len(run.ids) * (len(rows) + 1)
    seen.add(await run.accounts())
    q, t = quantiles(seen.buckets), quantiles(times.sparse())
    found = await run.end(seen, asked)
    unanswered = scenario.tasks - right
    figures = {
        "agents": float(scenario.agents),
        "agents_ready_s": spawned_s,
        "message_p50_ms": q.p50_ms,
        "message_p99_ms": q.p99_ms,
        "task_p50_ms": t.p50_ms,
        "tasks_per_s": scenario.tasks / took_s if scenario.tasks else 0.0,
        "seconds": took_s,
        "memory_mib": sum(after.values()),
    }
    grown = sum(after[name] - before.get(name, 0.0) for name in after if name.startswith("worker"))
    values = {
        "spawn_p95_ms": run.ready_p95_ms,
        "message_p95_ms": q.p95_ms,
        "task_p95_ms": t.p95_ms,
        "operations_per_s": (found.handled - len(run.ids)) / took_s,
        "success": (found.handled - found.duplicated - unanswered) / run.sent,
        "kib_per_agent": grown * 1024 / scenario.agents,
    }
    return Measured(scenario.name, values, figures, found, rows)


async def _paced(
    run: Run, scenario: Scenario, system: System, tell: Tell
) -> tuple[Account, list[dict[str, Any]], float]:
    """Messages each when it is due; long ones in spans, each with its row."""
    numbers = [0] * len(run.ids)
    total = Account()
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    left = scenario.seconds
    while left > SPAN_S:
        await open_loop(run, numbers, scenario.rate, SPAN_S, BODY)
        seen = await run.accounts()
        total.add(seen)
        left -= SPAN_S
        q = quantiles(seen.buckets)
        memory = await system.memory_mib()
        rows.append(
            {"second": round(scenario.seconds - left), "p95_ms": q.p95_ms, "p99_ms": q.p99_ms, "memory_mib": memory}
        )
        tell(scenario.seconds - left, scenario.seconds)
    await open_loop(run, numbers, scenario.rate, left, BODY)
    return total, rows, time.perf_counter() - began


async def _flood(run: Run, scenario: Scenario) -> tuple[Account, list[dict[str, Any]], float]:
    """Messages as fast as it goes, until the last is handled."""
    began = time.perf_counter()
    run.sent += await run.client.send_many(items(run.ids, scenario.messages, BODY))
    seen = await run.accounts()
    took_s = time.perf_counter() - began
    # `accounts` is asked once more at the end: for tasks that were under way.
    return seen, [{"second": round(took_s, 1)}], took_s


async def _tasks(run: Run, count: int) -> tuple[int, Histogram]:
    """Ask for results, ASKERS at a time; returns how many were right, and their times."""
    times = Histogram()
    numbers = iter(range(count))
    right = 0

    async def asker() -> None:
        nonlocal right
        for number in numbers:
            began = time.perf_counter_ns()
            answer: int = await run.client.ask(run.ids[number % len(run.ids)], "echo", Item(0, number, 0, ""), int)
            times.record((time.perf_counter_ns() - began) // 1000)
            right += answer == number

    await asyncio.gather(*(asker() for _ in range(ASKERS)))
    return right, times
