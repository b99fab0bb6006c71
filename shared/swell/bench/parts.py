"""The parts of `swell bench`. Each sends, asks the agents what they saw, and returns figures with the account."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from swell.bench.agents import TYPE, Account, Item
from swell.bench.result import Delivery, Result, delivery, quantiles
from swell.bench.system import System, drained
from swell.client import Client
from swell.histogram import Histogram

#: Told of progress: what is done, of how much.
Tell = Callable[[float, float], None]
#: Messages of one `send_many`: between two of them progress is told.
CHUNK = 20_000
#: Agents of one plan: their names must fit into one message.
PLAN_AGENTS = 20_000
#: Bytes of a message's body that are not padding, about.
_FIXED = 15


def silent(done: float, of: float) -> None:
    """Tell nobody."""


class Run:
    """One part's agents, and the account of what is sent to them.

    Args:
        system: where.
        agents: how many are spawned.
    """

    def __init__(self, system: System, agents: int) -> None:
        self.client: Client = system.client
        self._count = agents
        self.ids: list[str] = []
        self.sent = 0
        self.ready_p95_ms = 0.0
        self.plans: list[str] = []
        self._settled = 0
        self._dead = 0

    async def begin(self) -> None:
        """Spawn the agents; what was settled before does not count.

        Raises:
            PlanAborted: they did not all become ready.
        """
        if self._count:
            batch = secrets.token_hex(4)
            keys = [f"{batch}-{n:06d}" for n in range(self._count)]
            for at in range(0, self._count, PLAN_AGENTS):
                some = keys[at : at + PLAN_AGENTS]
                plan = await self.client.spawn(TYPE, keys=some, wave_size=1000, max_in_flight=1000)
                self.plans.append(plan.id)
                progress = await plan.wait()
                self.ready_p95_ms = max(self.ready_p95_ms, progress.ready_p95_s * 1000)
            self.ids = [f"{TYPE}/{key}" for key in keys]
        await drained(self.client)
        self._settled, self._dead = await self._totals()

    async def _totals(self) -> tuple[int, int]:
        ledgers = [one.ledger for one in await self.client.broker.glance(self.client.shard_names)]
        return sum(one.acked + one.dead + one.expired for one in ledgers), sum(one.dead for one in ledgers)

    async def accounts(self, ids: Sequence[str] | None = None) -> Account:
        """What the agents saw; they answer behind everything that was sent before."""
        total = Account()
        chosen = self.ids if ids is None else ids
        for at in range(0, len(chosen), 1000):
            page = chosen[at : at + 1000]
            seen: list[Account] = await asyncio.gather(
                *(self.client.ask(id, "account", None, Account, timeout=300) for id in page)
            )
            for one in seen:
                total.add(one)
        return total

    async def end(self, seen: Account, own_messages: int) -> Delivery:
        """The account of the run; the agents are terminated.

        Args:
            seen: by the agents.
            own_messages: messages that are no measured ones: questions for accounts.
        """
        await drained(self.client)
        found = delivery(self.sent, seen)
        settled, dead = await self._totals()
        found.settled = settled - self._settled - own_messages
        found.dead = dead - self._dead
        found.balanced = all(one.balanced for one in await self.client.ledger() if one.shard != "metrics")
        for plan in self.plans:
            await self.client.terminate(plan=plan)
        return found


def items(
    ids: Sequence[str], messages: int, body: int, name: str = "take", sender: int = 0, first: int = 0
) -> Iterator[Any]:
    """Messages to each agent in turn, numbered for each agent from `first`."""
    pad = "x" * max(0, body - _FIXED)
    agents = len(ids)
    for n in range(messages):
        yield ids[n % agents], name, Item(sender, first + n // agents, 0, pad)


async def throughput(
    system: System,
    *,
    messages: int = 1_000_000,
    agents: int = 100,
    body: int = 100,
    senders: int = 1,
    name: str = "take",
    tell: Tell = silent,
) -> Result:
    """As fast as it goes, from the first send until the last message is handled.

    Args:
        system: where.
        messages: how many.
        agents: they go to, each in turn.
        body: bytes of a body, about.
        senders: calls of `send_many` at a time.
        name: the handler; `nothing` does not look at the body.
        tell: told of progress.
    """
    run = Run(system, agents)
    await run.begin()
    share = messages // senders // agents * agents
    began = time.perf_counter()

    async def send(sender: int) -> int:
        sent = 0
        while sent < share:
            chunk = min(max(CHUNK // agents * agents, agents), share - sent)
            sent += await run.client.send_many(items(run.ids, chunk, body, name, sender, sent // agents))
            tell(sent * senders, messages)
        return sent

    run.sent = sum(await asyncio.gather(*map(send, range(senders))))
    accepted = time.perf_counter() - began
    seen = await run.accounts()
    took = time.perf_counter() - began
    figures = {
        "handled_per_s": run.sent / took,
        "accepted_per_s": run.sent / accepted,
        "seconds": took,
    }
    return Result("throughput", figures, await run.end(seen, len(run.ids)))


async def latency(
    system: System,
    *,
    rates: Sequence[int] = (500, 5_000, 10_000),
    seconds: float = 5.0,
    agents: int = 100,
    body: int = 100,
    tell: Tell = silent,
) -> Result:
    """Due time to handler at given rates, each message sent when it is due whatever became of those before.

    A sender that falls behind shows as latency, not as fewer messages: nothing is omitted.
    """
    run = Run(system, agents)
    await run.begin()
    total, merged, rows = Account(), Account(), []
    numbers = [0] * agents
    await open_loop(run, numbers, 1000, 1.0, body)
    warm = await run.accounts()
    asked = agents
    total.add(warm)
    for step, rate in enumerate(rates):
        before = run.sent
        took = await open_loop(run, numbers, rate, seconds, body)
        seen = await run.accounts()
        asked += agents
        total.add(seen)
        merged.add(seen)
        q = quantiles(seen.buckets)
        rows.append({"rate": rate, "achieved_per_s": round((run.sent - before) / took), **_struct(q)})
        tell(step + 1, len(rates))
    total.buckets = {}
    return Result("latency", {"seconds": seconds}, await run.end(total, asked), rows, merged.buckets)


async def open_loop(run: Run, numbers: list[int], rate: int, seconds: float, body: int) -> float:
    """Send `rate` messages a second, each when it is due; returns the seconds it took until all were acknowledged.

    One sender: what becomes due while a call is under way goes with the next one, and is late from when it was due.
    """
    pad = "x" * max(0, body - _FIXED)
    ids, client = run.ids, run.client
    most = int(rate * seconds)
    began = time.perf_counter()
    began_us = time.time_ns() // 1000
    number = 0
    while number < most:
        behind = time.time_ns() // 1000 - began_us
        due = min(most, behind * rate // 1_000_000 + 1)
        if number >= due:
            await asyncio.sleep((number * 1_000_000 / rate - behind) / 1e6)
            continue
        together = []
        for n in range(number, min(due, number + CHUNK)):
            at = n % len(ids)
            together.append((ids[at], "timed", Item(0, numbers[at], began_us + n * 1_000_000 // rate, pad)))
            numbers[at] += 1
        number += await client.send_many(together)
    run.sent += number
    return time.perf_counter() - began


async def ask(
    system: System, *, askers: int = 100, agents: int = 100, seconds: float = 5.0, body: int = 100, tell: Tell = silent
) -> Result:
    """Round trips: each asker asks again as soon as it is answered."""
    run = Run(system, agents)
    await run.begin()
    times = Histogram()
    item = Item(0, 1, 0, "x" * max(0, body - _FIXED))
    began = time.perf_counter()
    until = began + seconds

    async def asker(id: str) -> None:
        while (now := time.perf_counter_ns()) < until * 1e9:
            await run.client.ask(id, "echo", item, int)
            times.record((time.perf_counter_ns() - now) // 1000)

    async def progress() -> None:
        while True:
            await asyncio.sleep(0.2)
            tell(min(time.perf_counter() - began, seconds), seconds)

    telling = asyncio.ensure_future(progress())
    await asyncio.gather(*(asker(run.ids[n % agents]) for n in range(askers)))
    telling.cancel()
    took = time.perf_counter() - began
    run.sent = times.count
    seen = await run.accounts()
    q = quantiles(times.sparse())
    figures = {"round_trips_per_s": times.count / took, **_struct(q)}
    return Result("ask", figures, await run.end(seen, agents), buckets=times.sparse())


async def spawn(system: System, *, singles: int = 50, agents: int = 10_000, tell: Tell = silent) -> Result:
    """One agent at a time, 100 at once, and many in waves: from the request until they are ready."""
    run = Run(system, 0)
    await run.begin()
    client = run.client
    times = Histogram()
    plans = []
    for n in range(singles):
        began = time.perf_counter_ns()
        plan = await client.spawn(TYPE, 1)
        await plan.wait()
        times.record((time.perf_counter_ns() - began) // 1000)
        plans.append(plan.id)
        tell(n, singles + 2)
    parallel = []
    for _ in range(5):
        began = time.perf_counter_ns()
        plan = await client.spawn(TYPE, 100, wave_size=100)
        await plan.wait()
        parallel.append((time.perf_counter_ns() - began) / 1e6)
        plans.append(plan.id)
    tell(singles + 1, singles + 2)
    began = time.perf_counter_ns()
    plan = await client.spawn(TYPE, agents, wave_size=1000, max_in_flight=1000)
    progress = await plan.wait()
    many_s = (time.perf_counter_ns() - began) / 1e9
    plans.append(plan.id)
    asked = singles + 500 + agents
    ready = singles + 500 + progress.ready
    ended = 0
    for id in plans:
        ended += (await client.terminate(plan=id)).terminated
    await drained(client)
    found = await run.end(Account(ready), ended)
    found.sent = asked
    figures = {
        "one_p50_ms": times.quantile_us(0.5) / 1000,
        "one_p95_ms": times.quantile_us(0.95) / 1000,
        "hundred_median_ms": sorted(parallel)[2],
        "agents": float(agents),
        "agents_ready_s": many_s,
        "ready_p95_ms": progress.ready_p95_s * 1000,
    }
    return Result("spawn", figures, found)


async def fanout(
    system: System, *, agents: int = 10_000, rounds: int = 10, body: int = 100, tell: Tell = silent
) -> Result:
    """One sender to many agents, one message each, until the last has handled it."""
    run = Run(system, agents)
    await run.begin()
    times = []
    total = Account()
    for n in range(rounds):
        began = time.perf_counter()
        run.sent += await run.client.send_many(items(run.ids, agents, body, "timed", 0, n))
        await drained(run.client)
        times.append(time.perf_counter() - began)
        tell(n + 1, rounds)
    total.add(await run.accounts())
    total.buckets = {}
    median = sorted(times)[len(times) // 2]
    figures = {"agents": float(agents), "all_handled_ms": median * 1000, "handled_per_s": agents / median}
    return Result("fanout", figures, await run.end(total, agents))


async def memory(system: System, *, agents: int = 10_000, tell: Tell = silent) -> Result:
    """What an idle agent costs in the workers and in the server."""
    probe = Run(system, 100)  # What the first agents bring into memory is not theirs.
    await probe.begin()
    await probe.end(await probe.accounts(), 100)
    before = await system.memory_mib()
    run = Run(system, agents)
    await run.begin()
    after = await system.memory_mib()
    tell(1, 1)
    grown = {
        role: sum(after[n] - before.get(n, 0.0) for n in after if n.startswith(role)) for role in ("worker", "server")
    }
    figures = {
        "agents": float(agents),
        "worker_kib_per_agent": grown["worker"] * 1024 / agents,
        "server_kib_per_agent": grown["server"] * 1024 / agents,
    }
    seen = await run.accounts()
    return Result("memory", figures, await run.end(seen, agents))


async def soak(
    system: System,
    *,
    rate: int = 10_000,
    seconds: float = 60.0,
    agents: int = 100,
    body: int = 100,
    every_s: float = 10.0,
    tell: Tell = silent,
) -> Result:
    """A rate for a long time: latency, memory and success for every span of it."""
    run = Run(system, agents)
    await run.begin()
    numbers = [0] * agents
    total, merged, rows = Account(), Account(), []
    asked = 0
    for span in itertools.count():
        left = seconds - span * every_s
        if left <= 0:
            break
        before = run.sent
        took = await open_loop(run, numbers, rate, min(every_s, left), body)
        seen = await run.accounts()
        asked += agents
        total.add(seen)
        merged.add(seen)
        q = quantiles(seen.buckets)
        sent = run.sent - before
        rows.append(
            {
                "second": round(span * every_s + min(every_s, left)),
                "achieved_per_s": round(sent / took),
                **_struct(q),
                "success": seen.handled / sent if sent else 1.0,
                "memory_mib": await system.memory_mib(),
            }
        )
        tell(min((span + 1) * every_s, seconds), seconds)
    total.buckets = {}
    figures = {"rate": float(rate), "seconds": seconds, **_struct(quantiles(merged.buckets))}
    return Result("soak", figures, await run.end(total, asked), rows, merged.buckets)


def _struct(q: Any) -> dict[str, Any]:
    return {name: getattr(q, name) for name in q.__struct_fields__}
