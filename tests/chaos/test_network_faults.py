"""Faults of the network between processes and the server: slow, silent, cut, and answers that never come."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

import pytest

from swell import Client
from tests.chaos.cable import Cable
from tests.chaos.conftest import MakeSystem
from tests.chaos.fleet import Note
from tests.chaos.report import Rows
from tests.chaos.system import LEASE_MS, Load

AGENTS = 100
pytestmark = pytest.mark.timeout(900)


async def connections(client: Client) -> int:
    """The server's connections of one client."""
    listed: bytes = await client.broker._link("query").call("CLIENT", "LIST")  # type: ignore[attr-defined]
    return sum(f"swell:{client.process}:".encode() in line for line in listed.splitlines())


async def test_6_calls_cancelled_at_random_leave_nothing_behind_and_every_reply_is_its_own(
    server_url: str, system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    calls = 10_000 if long else 1000
    began = time.monotonic()
    async with Cable(server_url) as cable, system() as one:
        await one.begin(workers=1)
        agents = await one.spawn(10)
        cable.delay_s = 0.02
        client = await one.connect(cable.url)
        await client.ask(agents[0], "note", Note("first", 0), int)
        one.sent.acknowledge([one.sent.number("first", agents[0])])
        before = await connections(client)
        tasks = len(asyncio.all_tasks())
        answered = cancelled = 0

        async def call(number: int) -> None:
            nonlocal answered, cancelled
            sender = f"c{number}"
            agent = agents[number % len(agents)]
            numbered = one.sent.number(sender, agent)
            kind = client.ask(agent, "note", Note(sender, numbered.seq), int, timeout=30)
            task = asyncio.ensure_future(kind)
            await asyncio.sleep(rng.uniform(0, 0.12))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert await task == numbered.seq
                one.sent.acknowledge([numbered])
                answered += 1
                return
            cancelled += 1

        for at in range(0, calls, 100):
            await asyncio.gather(*(call(number) for number in range(at, at + 100)))
        assert answered > calls / 20
        assert cancelled > calls / 20
        cable.mend()
        await one.drained()
        assert await client.ask(agents[0], "note", Note("last", 0), int) == 0
        one.sent.acknowledge([one.sent.number("last", agents[0])])
        assert client.caller._calls == {}
        assert not any(lane.batches or lane.room for lane in client.producer._lanes.values())
        assert await connections(client) <= before
        assert len(asyncio.all_tasks()) <= tasks
        verdict = await one.settled()
    rows.add("6 calls cancelled", verdict, cancelled, time.monotonic() - began, answered=answered)


def break_cable(cable: Cable, how: str) -> None:
    match how:
        case "cut":
            cable.cut()
        case "half-open":
            cable.swallow()
        case "slow":
            cable.delay_s = 0.2


@pytest.mark.parametrize("how", ["cut", "half-open", "slow"])
async def test_6_a_worker_whose_network_breaks_comes_back_or_is_taken_over(
    server_url: str, system: MakeSystem, rng: random.Random, rows: Rows, long: bool, how: str
) -> None:
    spans_s = (1.0, 10.0, 1.0, 3.0) if long else (1.0, 3.0)
    times: list[float] = []
    async with Cable(server_url) as cable, system() as one:
        broken = one.start("worker", cable.url)
        await one.begin(workers=1, metrics=1)
        await one.all_ready(broken)
        agents = await one.spawn(AGENTS)
        async with one.load(agents, Load(rate=2000)) as load:
            for span_s in spans_s:
                await asyncio.sleep(rng.uniform(0.2, 0.6))
                break_cable(cable, how)
                await asyncio.sleep(span_s)
                cable.mend()
                mended = time.monotonic()
                await one.all_ready(*one.running("worker"))
                times.append(time.monotonic() - mended)
            cable.cut()  # For good.
            await asyncio.sleep(2 * LEASE_MS / 1000)
        verdict = await one.settled()
        owners = {lease.owner for lease in await one.client.leases() if lease.shard.isdigit()}
        assert len(owners) == 1
        assert f"-{broken.pid}-" not in owners.pop()
        assert not load.errors
        cable.mend()
    rows.add(f"6 network of a worker {how}", verdict, len(spans_s) + 1, load.seconds, times)


async def test_6_senders_whose_network_breaks_lose_nothing_they_were_told_of(
    server_url: str, system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    breaks = 20 if long else 4
    async with Cable(server_url) as cable, system() as one:
        await one.begin(workers=2)
        agents = await one.spawn(AGENTS)
        async with one.load(agents, Load(rate=2000, url=cable.url)) as load:
            for _ in range(breaks):
                await asyncio.sleep(rng.uniform(0.2, 0.5))
                break_cable(cable, rng.choice(("cut", "half-open", "slow")))
                await asyncio.sleep(rng.uniform(0.2, 1.5))
                cable.mend()
        verdict = await one.settled()
        assert not load.errors
    rows.add("6 network of the senders", verdict, breaks, load.seconds)


async def test_12_answers_that_are_lost_double_nothing(
    server_url: str, system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    losses = 100 if long else 12
    async with Cable(server_url) as senders, Cable(server_url) as workers, system() as one:
        worker = one.start("worker", workers.url, lease_ms=5000)
        await one.begin(workers=0)
        await one.all_ready(worker)
        agents = await one.spawn(AGENTS)
        before = sum(ledger.sent for ledger in await one.client.ledger() if ledger.shard.isdigit())
        async with one.load(agents, Load(rate=3000, url=senders.url)) as load:
            for _ in range(losses):
                await asyncio.sleep(rng.uniform(0.05, 0.2))
                cable = rng.choice((senders, workers))
                cable.drop_answers()
                await asyncio.sleep(rng.uniform(0.01, 0.1))
                cable.mend()
        verdict = await one.settled()
        ledgers = [ledger for ledger in await one.client.ledger() if ledger.shard.isdigit()]
        assert not load.errors
        assert verdict.unknown == 0
        assert sum(ledger.sent for ledger in ledgers) - before == verdict.messages
        duplicates = sum(ledger.duplicate for ledger in ledgers)
        assert duplicates > 0, "appends were repeated"
        # Nobody died: what was handled was settled once, and nothing was handled again.
        assert verdict.repeats == 0
    rows.add("12 answers lost", verdict, losses, load.seconds, duplicates_refused=duplicates)


def hostile(rng: random.Random, size: int) -> list[bytes]:
    """Payloads that are no batch, each in another way."""
    nested = b"\x91" * 10_000 + b"\xc0"
    return [
        b"",
        rng.randbytes(200),
        b"\x94\x01\xa1p\x01\x91\x94\xa6notary",  # cut in the middle
        b"\x94\x01\xa1p\x01" + nested,
        nested,
        b"\x94\x63\xa1p\x01\x90",  # another schema
        b"\xdd\xff\xff\xff\xff",  # says it has 4,294,967,295 items
        rng.randbytes(size),
    ]


async def test_10_hostile_bytes_in_live_inboxes_are_dead_letters_and_harm_nobody(
    server_url: str, system: MakeSystem, rng: random.Random, rows: Rows, long: bool
) -> None:
    rounds = 10 if long else 2
    written = 0
    async with system() as one:
        await one.begin(workers=2, metrics=1)
        agents = await one.spawn(AGENTS)
        pids = {service.pid for service in one.services}
        link = one.client.broker._link("query")  # type: ignore[attr-defined]
        async with one.load(agents, Load(rate=2000)) as load:
            for _ in range(rounds):
                for shard in [*one.client.shard_names, "control", "metrics"]:
                    key = f"swell:{one.namespace}:{{{shard}}}:inbox"
                    for payload in hostile(rng, (100 << 20) if long and written == 0 else (8 << 20)):
                        # No count, so that the account of those that were appended stays right.
                        await link.call("XADD", key, "*", "b", payload)
                        written += 1
                await asyncio.sleep(0.2)
        foreign = 0

        async def given_up() -> bool:
            nonlocal foreign
            foreign = sum(ledger.foreign for ledger in await one.client.ledger())
            return foreign == written

        await one.until(given_up, f"all {written} hostile entries given up")
        verdict = await one.settled()
        assert not load.errors
        assert {service.pid for role in ("worker", "manager", "metrics") for service in one.running(role)} == pids
        malformed = (await one.counters("malformed"))["malformed"]
    rows.add("10 hostile bytes", verdict, written, load.seconds, malformed=malformed)
