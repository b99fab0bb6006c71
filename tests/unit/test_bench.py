"""`swell bench`: its agents' accounts, and the verdict that a run must be able to fail."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from swell import Agent, App, handler
from swell.bench import parts
from swell.bench.agents import TYPE, Account, Bench, Item
from swell.bench.agents import app as honest
from swell.bench.plot import plot_result
from swell.bench.result import Delivery, Result, bars, delivery, quantiles
from swell.bench.system import System
from swell.histogram import bucket_of
from tests.unit.brokers import rig_of


def item(number: int, sender: int = 0) -> Item:
    return Item(sender, number, 0, "")


async def account_of(*items: Item) -> Account:
    agent = Bench()
    for one in items:
        await agent.take(one)
    return await agent.account()


async def test_an_agent_counts_what_came_twice_and_what_came_out_of_order() -> None:
    assert await account_of(item(0), item(1), item(0, 1), item(2)) == Account(4)
    assert await account_of(item(0), item(1), item(1)) == Account(3, duplicated=1)
    assert await account_of(item(0), item(2), item(3)) == Account(3, reordered=1)


async def test_an_account_begins_again_and_numbers_go_on() -> None:
    agent = Bench()
    await agent.timed(item(0))
    first = await agent.account()
    assert (first.handled, sum(first.buckets.values())) == (1, 1)
    await agent.take(item(1))
    assert await agent.account() == Account(1)


def test_every_way_to_fail_is_named() -> None:
    good = Delivery(10, 10, 10)
    assert good.problems == []
    wrong = {
        "3 messages were not handled": Delivery(10, 7, 10),
        "2 were handled twice": Delivery(10, 12, 10, duplicated=2),
        "2 more were handled than sent": Delivery(10, 12, 10),
        "1 were out of order": Delivery(10, 10, 10, reordered=1),
        "4 are not settled": Delivery(10, 10, 6),
        "5 are dead letters": Delivery(10, 10, 10, dead=5),
        "a ledger does not balance": Delivery(10, 10, 10, balanced=False),
    }
    for problem, found in wrong.items():
        assert found.problems == [problem]
        assert Result("throughput", {}, found).failed
    assert delivery(3, Account(4, 1, 2)) == Delivery(3, 4, 0, 1, 2)


def test_quantiles_and_bars() -> None:
    buckets = {bucket_of(100): 90, bucket_of(5000): 10}
    found = quantiles(buckets)
    assert found.count == 100
    assert found.p50_ms == pytest.approx(0.1, rel=0.07)
    assert found.p95_ms == pytest.approx(5.0, rel=0.07)
    shown = bars(buckets)
    assert [count for _, count, _ in shown if count] == [90, 10]
    assert shown[0][0] == "128 us"
    assert bars({}) == []


def test_results_are_drawn(tmp_path: Path) -> None:
    row = {
        "second": 10,
        "achieved_per_s": 100,
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "p99_ms": 3.0,
        "memory_mib": {"worker-1": 50},
    }
    plot_result(Result("soak", {}, Delivery(), [row]), tmp_path / "soak.svg")
    plot_result(Result("latency", {}, Delivery(), buckets={3: 4}), tmp_path / "latency.svg")
    assert "memory, MiB" in (tmp_path / "soak.svg").read_text()
    assert "polyline" in (tmp_path / "latency.svg").read_text()


def cheat(how: str) -> App:
    """An app whose agents of the same type do not take every message as it comes."""
    app = App("bench")

    @app.agent(TYPE)
    class Cheat(Bench):
        held: list[Item] = []  # noqa: RUF012

        @handler
        async def take(self, body: Item) -> None:
            if how == "drops" and body.number == 1:
                return
            await Bench.take(self, body)
            if how == "doubles" and body.number == 1:
                await Bench.take(self, body)
            if how == "fails" and body.number == 1:
                raise ValueError("no")

    assert issubclass(Cheat, Agent)
    return app


class Spawns(parts.Run):
    """Spawns by itself: there is no manager in memory."""

    async def begin(self) -> None:
        self.ids = [f"{TYPE}/{n}" for n in range(self._count)]
        for id in self.ids:
            await self.client.request(self.client.shard(id), id, "$spawn", {"plan": "p"}, 5)
        self.plans = ["p"]
        self._settled, self._dead = await self._totals()

    async def accounts(self, ids: object = None) -> Account:
        total = Account()
        for id in self.ids:
            total.add(await self.client.ask(id, "account", None, Account))
        return total


@pytest.mark.parametrize(
    ("how", "problem"),
    [("honest", ""), ("drops", "were not handled"), ("doubles", "handled twice"), ("fails", "dead letters")],
)
async def test_a_run_whose_agents_lose_double_or_fail_messages_fails(
    how: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig_of() as rig:
        await rig.start(honest if how == "honest" else cheat(how))
        run = Spawns(System(rig.client, ""), 3)
        await run.begin()
        run.sent = await rig.client.send_many(parts.items(run.ids, 12, 50))

        async def no_manager(**_: object) -> None:
            await asyncio.sleep(0)

        monkeypatch.setattr(rig.client, "terminate", no_manager)
        monkeypatch.setattr(rig.client, "ledger", no_ledgers)
        found = await run.end(await run.accounts(), 3)
        assert bool(found.problems) == bool(problem), found.problems
        assert problem in "; ".join(found.problems)


async def no_ledgers() -> list[object]:
    return []


def test_bodies_have_the_size_asked_for() -> None:
    ((_, _, body),) = parts.items(["bench/1"], 1, 100)
    assert 90 <= len(msgspec.msgpack.encode(body)) <= 110
