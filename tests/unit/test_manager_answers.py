"""Commands that come again, by key or because their leader died: nothing is done twice, and the answer is the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from swell.bus.broker import Lease, Settlement
from swell.client import Client
from swell.codec import decode, encode
from swell.errors import CallError, WrongBody
from swell.keys import CONTROL
from swell.wire import SPAWN, TERMINATE, TERMINATE_MANY, TO_CONTROL, SpawnAgent, Terminated, TerminateMany
from swell_manager import answers as answers_module
from swell_manager import termination
from swell_manager.answers import KeptAnswer, digest
from tests.unit.manager_fleet import LEASE_MS, Fleet, fleet_of
from tests.unit.test_manager_control import Running, balanced, records


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with fleet_of() as both:
        yield both


async def answers(client: Client) -> list[str]:
    return sorted(id for id in await records(client) if id.startswith("answer/"))


async def test_ending_agents_again_under_the_same_key_ends_nobody_and_is_answered_the_same(running: Running) -> None:
    fleet, client = running
    await (await client.spawn("echo", 5)).wait()
    first = await client.terminate(type="echo", key="k")
    assert first == Terminated(5)
    await (await client.spawn("echo", 2)).wait()
    assert await client.terminate(type="echo", key="k") == first
    assert fleet.worker.in_state("ready") == {"echo/0005", "echo/0006"}
    assert await client.terminate(type="echo", key="other") == Terminated(2)
    assert await answers(client) == ["answer/$terminate_many/k", "answer/$terminate_many/other"]
    assert await balanced(client)


async def test_two_at_once_under_the_same_key_are_one(running: Running) -> None:
    fleet, client = running
    await (await client.spawn("echo", 20)).wait()
    told = await asyncio.gather(*(client.terminate(type="echo", key="k") for _ in range(5)))
    assert told == [Terminated(20)] * 5
    assert set(fleet.worker.ends.values()) == {1}


async def test_a_key_belongs_to_one_request(running: Running) -> None:
    _, client = running
    await (await client.spawn("echo", 2)).wait()
    await client.terminate("echo/0000", key="k")
    with pytest.raises(WrongBody, match="came with another request") as refused:
        await client.terminate("echo/0001", key="k")
    assert refused.value.detail["field"] == "key"
    with pytest.raises(WrongBody, match="key"):
        await client.terminate("echo/0001", key="a b")
    # Keys of other commands are others.
    plan = await client.spawn("echo", 1, id="k")
    await plan.wait()
    with pytest.raises(CallError, match="has ended: done"):
        await client.cancel("k", key="k")


async def test_cancelling_again_under_the_same_key_is_answered_the_same(running: Running) -> None:
    fleet, client = running
    fleet.worker.holding = {"0001"}
    plan = await client.spawn("echo", 2)
    await fleet.worker.holds.wait()
    first = await client.cancel(plan.id, "rollback", key="k")
    assert first.state == "cancelled"
    assert await client.cancel(plan.id, "rollback", key="k") == first
    with pytest.raises(CallError, match="has ended: cancelled"):
        await client.cancel(plan.id, "rollback")
    with pytest.raises(WrongBody, match="came with another request"):
        await client.cancel(plan.id, "keep", key="k")


async def test_a_command_without_a_key_leaves_nothing_behind(running: Running) -> None:
    _, client = running
    await (await client.spawn("echo", 3)).wait()
    assert (await client.terminate("echo/0000", "echo/none")).terminated == 1
    assert (await client.terminate(type="echo")).terminated == 2
    assert await answers(client) == []


async def test_only_the_newest_answers_are_remembered(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "KEEP_ANSWERS", 3)
    _, client = running
    for number in range(6):
        await client.terminate(type="echo", key=f"k{number}")
    assert await answers(client) == [f"answer/$terminate_many/k{number}" for number in (3, 4, 5)]


async def test_another_leader_answers_what_the_first_one_has_answered(running: Running) -> None:
    fleet, client = running
    await (await client.spawn("echo", 3)).wait()
    first = await client.terminate(type="echo", key="k")
    # `manager-a` comes before `manager-b` in the order of names, so it is given the shard.
    await fleet.start_manager("manager-a")
    await fleet.leaders["manager-a"].wait()
    await (await client.spawn("echo", 1)).wait()
    assert await client.terminate(type="echo", key="k") == first
    assert fleet.worker.in_state("ready") == {"echo/0003"}


@pytest.mark.parametrize("key", ["", "k"])
async def test_another_leader_counts_those_that_the_dead_one_had_ended(key: str) -> None:
    request = TerminateMany(["echo/a", "echo/b", "echo/c", "echo/none"], key=key)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        fleet = Fleet(group)
        await fleet.start_worker()
        client = await fleet.client_of("client")
        for id in request.ids[:3]:
            await client.request(client.shard(id), id, SPAWN, SpawnAgent("p"), 5.0)
        asked = group.create_task(client.request(CONTROL, TO_CONTROL, TERMINATE_MANY, request, 15.0))
        # What a leader leaves that died when two of them had ended.
        lease = await client.broker.acquire(CONTROL, "dead leader", LEASE_MS)
        assert isinstance(lease, Lease)
        while not (entries := await client.broker.read("dead leader", [CONTROL], 1, 1000)):
            pass
        kept = KeptAnswer(digest(request), 1, request.ids, ["echo/none"])
        place = key or f"@{entries[0].id}.0"
        await client.broker.settle([Settlement(lease, [], {f"answer/{TERMINATE_MANY}/{place}": encode(kept)})])
        for id in request.ids[:2]:
            await client.request(client.shard(id), id, TERMINATE, None, 5.0)
        await client.broker.release(lease)
        await fleet.start_manager("manager")
        told = decode(await asked, Terminated)
        assert (told.terminated, list(told.failed)) == (3, ["echo/none"])
        assert fleet.worker.ends == dict.fromkeys(request.ids[:3], 1)
        assert await answers(client) == ([f"answer/{TERMINATE_MANY}/k"] if key else [])
        for stop in reversed(fleet.stops):
            await stop()
        await client.finish()


async def test_a_roll_back_leaves_an_agent_alone_that_another_plan_has_spawned_meanwhile(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, client = running
    await (await client.spawn("echo", keys=["a", "b"], id="one")).wait()
    seen = await termination.living(client, plan="one")

    async def seen_before(client: Client, *, type: str = "", plan: str = "") -> list[str]:
        # The records were read; only then did somebody end one of the two, and another plan spawn it anew.
        await client.terminate("echo/a")
        await (await client.spawn("echo", keys=["a"], id="two")).wait()
        return seen

    monkeypatch.setattr(termination, "living", seen_before)
    assert await termination.roll_back(client, "one", seen) == (1, {})
    assert fleet.worker.in_state("ready") == {"echo/a"}
