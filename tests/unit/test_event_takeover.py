"""Events whose shard's owner dies between the steps of fanning them out; and what else is promised of each event."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from swell.bus.broker import Lease
from swell.bus.events import FanOut, FanOutStatus
from swell.bus.memory import MemoryBroker
from swell.testing import Fleet, fleet_test
from tests.unit.test_topics import Paid, app, fresh, heard

__all__ = ["fresh"]


class Stuck:
    """Brokers whose n-th step of fanning out is written, or not, and then never returns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.stuck_at = 0
        self.writes = True
        self.reached = asyncio.Event()
        original = MemoryBroker.fan_out

        async def fan_out(broker: MemoryBroker, lease: Lease, step: FanOut, most_depth: int) -> FanOutStatus:
            self.steps += 1
            if self.steps != self.stuck_at:
                return await original(broker, lease, step, most_depth)
            if self.writes:
                assert await original(broker, lease, step, most_depth) == "ok"
            self.reached.set()
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(MemoryBroker, "fan_out", fan_out)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Stuck:
    return Stuck(monkeypatch)


async def replace_worker(fleet: Fleet) -> None:
    """Kill the worker when what it has read is handled, and start another."""
    await asyncio.sleep(2)
    await fleet.kill_worker()
    await fleet.start_worker()
    await fleet.quiet(600)


@fleet_test(app, shards=1)
async def test_events_whose_owner_died_before_their_end_was_noted_are_heard_once(fleet: Fleet, stuck: Stuck) -> None:
    await fleet.spawn("clerk", count=3)
    for agent in ("clerk/0000", "clerk/0001"):
        await fleet.client.subscribe(agent, "orders.**", "note", group="desk")
    stuck.stuck_at = 1
    await fleet.client.publish_many(("orders.x.paid", Paid(number)) for number in (1, 2))  # One step.
    await stuck.reached.wait()
    await fleet.client.publish("orders.3.paid", Paid(3))
    await replace_worker(fleet)
    counts = Counter(body if isinstance(body, int) else "desk" for _, body in heard)
    assert counts == {1: 3, 2: 3, 3: 3, "desk": 3}


@fleet_test(app, shards=1)
async def test_an_event_that_was_not_written_when_its_owner_died_is_heard_once_and_by_a_group_at_least_once(
    fleet: Fleet, stuck: Stuck
) -> None:
    await fleet.spawn("clerk", count=3)
    await fleet.client.subscribe("clerk/0000", "orders.**", "note", group="desk")
    stuck.stuck_at, stuck.writes = 1, False
    await fleet.client.publish("orders.1.paid", Paid(1))
    await stuck.reached.wait()
    assert not [body for _, body in heard if body == 1]
    await replace_worker(fleet)
    counts = Counter(isinstance(body, int) for _, body in heard)
    assert counts == {True: 3, False: 2}


@pytest.mark.parametrize("step", [1, 2])
def test_an_event_in_parts_goes_on_where_its_owner_died(step: int, stuck: Stuck) -> None:
    @fleet_test(app, shards=1, max_depth=256)
    async def run(fleet: Fleet) -> None:
        await fleet.spawn("clerk", keys=[f"{number:04}" for number in reversed(range(400))])
        await fleet.client.subscribe("clerk/0000", "orders.**", "note", group="desk")
        stuck.stuck_at = step
        await fleet.client.publish("orders.1.paid", Paid(1))
        await stuck.reached.wait()
        await replace_worker(fleet)
        assert stuck.steps == 2
        counts = Counter(heard_by for heard_by, body in heard if body == 1)
        assert len(counts) == 400
        assert set(counts.values()) == {1}
        assert len(heard) == 401, "and the group once"

    run()


@fleet_test(app)
async def test_an_event_whose_time_is_over_before_it_is_fanned_out_expires(fleet: Fleet) -> None:
    await fleet.spawn("clerk", count=3)
    await fleet.stop_worker()
    await fleet.client.publish("orders.1.paid", Paid(1), ttl=5)
    await fleet.client.publish("orders.2.paid", Paid(2), ttl=500)
    await asyncio.sleep(10)
    await fleet.start_worker()
    await fleet.quiet()
    assert [order for _, order in heard] == [2, 2, 2]
    assert sum(ledger.expired for ledger in await fleet.client.ledger()) == len(fleet.client.shard_names)


@fleet_test(app)
async def test_an_event_or_a_broadcast_under_a_key_is_heard_once_however_often_it_is_published(fleet: Fleet) -> None:
    await fleet.spawn("clerk", keys=["a"])
    for _ in range(3):
        await fleet.client.publish("orders.1.paid", Paid(1), key="order-1")
        await fleet.client.broadcast("note", "hello", key="hello")
    await fleet.quiet()
    assert Counter(body for _, body in heard) == {1: 1, "hello": 1}


@fleet_test(app, workers=2)
async def test_events_of_one_sender_keep_their_order_between_topics_while_agents_move(fleet: Fleet) -> None:
    await fleet.spawn("clerk", keys=["a"])
    for topic in ("x.*", "y", "**.z"):
        await fleet.client.subscribe("clerk/a", topic, "note")

    async def publish() -> None:
        for number in range(300):
            await fleet.client.publish(("x.1", "y", "a.b.z")[number % 3], number)

    publishing = asyncio.ensure_future(publish())
    await asyncio.sleep(0.005)
    await fleet.stop_worker()
    await publishing
    await fleet.quiet()
    numbers: list[Any] = [body for _, body in heard]
    assert numbers == list(range(300))
