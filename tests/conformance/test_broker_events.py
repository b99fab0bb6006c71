"""Events fanned out: the subscribers' messages and the mark are written in one instant, once, by the owner alone."""

from __future__ import annotations

from swell.bus.broker import Broker
from swell.bus.events import MARK, FanOut
from tests.conformance.backends import SHORT_MS, Backend, own, payloads, take_over

ROOM = 1000
STEP = FanOut(b"", b"1", [(2, b"first"), (1, b"second")])


async def test_batches_and_mark_are_written_together_and_counted(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    assert await broker.fan_out(lease, STEP, ROOM) == "ok"
    assert payloads(await broker.read("worker", ["0"], 10, 0)) == [b"first", b"second"]
    ledger = await broker.ledger("0")
    assert (ledger.sent, ledger.depth) == (3, 3)
    assert await broker.record("0", MARK) == b"1"


async def test_the_same_call_again_appends_nothing_twice(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    assert [await broker.fan_out(lease, STEP, ROOM) for _ in range(3)] == ["ok", "ok", "ok"]
    assert (await broker.ledger("0")).sent == 3
    assert await broker.fan_out(lease, FanOut(b"1", b"2", [(1, b"third")]), ROOM) == "ok"
    assert payloads(await broker.read("worker", ["0"], 10, 0)) == [b"first", b"second", b"third"]


async def test_a_step_that_does_not_follow_the_mark_is_not_taken(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    assert await broker.fan_out(lease, FanOut(b"7", b"8", [(1, b"x")]), ROOM) == "lost"
    assert (await broker.ledger("0")).sent == 0


async def test_without_room_nothing_is_written_and_the_step_may_come_again(broker: Broker) -> None:
    lease = await own(broker, "0", "worker")
    assert await broker.fan_out(lease, STEP, 2) == "busy"
    assert ((await broker.ledger("0")).sent, await broker.record("0", MARK)) == (0, None)
    assert await broker.fan_out(lease, STEP, 3) == "ok"


async def test_an_owner_of_an_older_epoch_fans_nothing_out(broker: Broker, backend: Backend) -> None:
    old = await own(broker, "0", "old", SHORT_MS)
    new = await take_over(backend, broker, "0", "new")
    assert await broker.fan_out(old, STEP, ROOM) == "lost"
    assert await broker.fan_out(new, STEP, ROOM) == "ok"
    assert (await broker.ledger("0")).sent == 3
