"""The server loses the stream of replies of one process: what it had asked is not known, and nobody ends of that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from swell.bus import caller
from swell.codec import encode
from swell.testing import Fleet, fleet_test
from swell.wire import LIVE, AgentRecord
from swell_manager import termination
from tests.unit.brokers import rig_of
from tests.unit.manager_fleet import fleet_of
from tests.unit.test_durable_tasks import app_of, fresh

__all__ = ["fresh"]


@pytest.fixture(autouse=True)
def noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is noticed long before any call's time is over."""
    monkeypatch.setattr(caller, "BLOCK_MS", 100)


def lose(server: Any, namespace: str, process: str) -> None:
    """As a fail-over to a replica that had not got it, or a flush."""
    assert server.namespace(namespace).replies.pop(process, None) is not None


async def test_agents_are_listed_as_their_records_say_though_the_answers_of_their_workers_are_lost() -> None:
    async with rig_of(2) as rig:
        for shard, id in (("0", "echo/1"), ("1", "echo/2")):
            type, _, key = id.partition("/")
            rig.server.namespace("tests").shard(shard).records |= {id: encode(AgentRecord(type, key, "ready"))}
        listing = asyncio.ensure_future(rig.client.agents())
        await rig.broker.called("append", 1)
        lose(rig.server, "tests", "client")
        assert [(one.id, one.worker) for one in await listing] == [("echo/1", ""), ("echo/2", "")]


async def test_a_manager_asks_again_who_has_read_everything_when_the_answer_is_lost() -> None:
    async with fleet_of() as (fleet, client):
        worker, deliver, asked = fleet.worker, fleet.worker.deliver, 0

        def lost_once(entry: Any, batch: Any) -> None:
            nonlocal asked
            if any(message.name == LIVE for message in batch.messages):
                asked += 1
                if asked == 1:
                    fleet.server.namespace("test").replies.pop("client")
            deliver(entry, batch)

        worker.deliver = lost_once  # type: ignore[method-assign]
        assert await termination.silent_shards(client) == set()
        assert asked > 2


@fleet_test(app_of(), workers=2)
async def test_a_worker_that_looks_for_agents_outlives_the_loss_of_its_answers(fleet: Fleet) -> None:
    """Half of the agents' shards answer no `$live` until they are taken over."""
    await fleet.spawn("crew", count=8)
    for number in range(8):
        await fleet.client.send(f"crew/{number:04d}", "wait", 60.0)
    tasks = [await fleet.client.submit("crew", "square", number, timeout=600) for number in range(40)]
    await asyncio.sleep(4)
    killed, alive = fleet.workers
    await fleet.kill_worker(killed)
    replies = fleet._server.namespace("test").replies
    lost = 0
    for _ in range(80):
        await asyncio.sleep(0.1)
        lost += replies.pop(alive, None) is not None
    assert lost > 10
    assert not fleet._running[alive][0].done(), "the worker has ended"
    assert [await task.result(int) for task in tasks] == [number * number for number in range(40)]
