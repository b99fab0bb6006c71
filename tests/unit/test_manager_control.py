"""The leading manager, on the memory broker, with a worker whose answers the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from swell.bus.broker import Lease, Settlement
from swell.client import Client, Plan
from swell.codec import decode, encode
from swell.errors import CallError, PlanAborted, UnknownType, WrongBody
from swell.keys import CONTROL
from swell.wire import (
    SPAWN,
    TO_CONTROL,
    PlanProgress,
    PlanRequest,
    SpawnAgent,
)
from swell_manager import control as control_module
from swell_manager.plans import KeptPlan
from tests.unit.manager_fleet import LEASE_MS, Fleet, fleet_of


@pytest.fixture
async def running() -> AsyncIterator[tuple[Fleet, Client]]:
    async with fleet_of() as both:
        yield both


Running = tuple[Fleet, Client]


async def records(client: Client) -> dict[str, bytes]:
    return await client.broker.records(CONTROL)


async def states(plan: Plan) -> list[PlanProgress]:
    return [progress async for progress in plan]


async def balanced(client: Client) -> bool:
    return all(account.balanced and not account.depth for account in await client.ledger())


async def test_a_plan_starts_every_agent_once_and_tells_progress_to_the_end(running: Running) -> None:
    fleet, client = running
    plan = await client.spawn("echo", 25, wave_size=10, pacing="barrier")
    told = await states(plan)
    last = told[-1]
    assert (last.state, last.ready, last.failed, last.wave, last.waves) == ("done", 25, 0, 3, 3)
    assert sorted(fleet.worker.starts) == [f"echo/{n:04d}" for n in range(25)]
    assert set(fleet.worker.starts.values()) == {1}
    assert last.ready_p95_s > 0
    assert await client.plan(plan.id) == last
    assert await balanced(client)


async def test_keys_continue_the_count_of_their_type(running: Running) -> None:
    fleet, client = running
    await (await client.spawn("echo", 2)).wait()
    await (await client.spawn("echo", 2)).wait()
    assert sorted(fleet.worker.starts) == ["echo/0000", "echo/0001", "echo/0002", "echo/0003"]


async def test_the_same_id_joins_the_running_plan(running: Running) -> None:
    fleet, client = running
    fleet.worker.holding = {"0001"}
    one = await client.spawn("echo", 3, id="twice")
    other = await client.spawn("echo", 3, id="twice")
    await fleet.worker.holds.wait()
    fleet.worker.release()
    assert (await one.wait()).ready == (await other.wait()).ready == 3
    assert len(fleet.worker.starts) == 3


async def test_the_same_id_again_answers_how_the_plan_ended(running: Running) -> None:
    fleet, client = running
    first = await (await client.spawn("echo", 3, id="twice")).wait()
    again = await (await client.spawn("echo", 3, id="twice")).wait()
    assert again == first
    assert len(fleet.worker.starts) == 3


async def test_an_id_alone_joins_and_never_starts_a_plan(running: Running) -> None:
    _, client = running
    first = await (await client.spawn("echo", 3, id="there")).wait()
    assert (await states(await client.submit_plan(PlanRequest("there", ""))))[-1] == first
    with pytest.raises(CallError, match="there is no plan 'elsewhere'"):
        await client.submit_plan(PlanRequest("elsewhere", ""))


async def test_the_same_id_for_another_plan_is_refused(running: Running) -> None:
    _, client = running
    await (await client.spawn("echo", 3, id="twice")).wait()
    with pytest.raises(WrongBody, match="choose another id"):
        await client.spawn("echo", 4, id="twice")


async def test_a_plan_of_a_type_that_no_worker_runs_is_refused(running: Running) -> None:
    _, client = running
    with pytest.raises(UnknownType, match="only echo"):
        await client.spawn("nothing", 3)
    assert await client.plans() == []


async def test_while_no_worker_is_there_a_plan_is_taken_and_waits() -> None:
    async with fleet_of(worker=False) as (fleet, client):
        plan = await client.spawn("echo", 3)
        await fleet.start_worker()
        assert (await plan.wait()).ready == 3


async def test_a_wrong_plan_is_refused_with_the_field_named(running: Running) -> None:
    _, client = running
    with pytest.raises(WrongBody) as refused:
        await client.spawn("echo", 3, wave_size=0)
    assert refused.value.detail == {"field": "wave_size"}
    [(_, letter)] = await client.broker.dead(CONTROL, 10)
    assert b"wave_size" in letter


async def test_a_body_that_is_no_plan_is_refused_with_the_path(running: Running) -> None:
    _, client = running
    body = {"id": "x", "type": "echo", "keys": ["a", 7]}
    with pytest.raises(WrongBody) as refused:
        await client.request(CONTROL, TO_CONTROL, "$plan", body, 5.0)
    assert refused.value.detail == {"field": "keys[1]"}


async def test_a_command_of_another_name_is_refused(running: Running) -> None:
    _, client = running
    with pytest.raises(CallError, match="no command"):
        await client.request(CONTROL, TO_CONTROL, "$sing", None, 5.0)
    assert await balanced(client)


async def test_too_many_failures_roll_back_what_the_plan_started(running: Running) -> None:
    fleet, client = running
    await (await client.spawn("echo", keys=["0002"])).wait()
    fleet.worker.failing = {"0010", "0011", "0012"}
    plan = await client.spawn("echo", keys=[f"{n:04d}" for n in range(20)], abort_ratio=0.1)
    with pytest.raises(PlanAborted) as aborted:
        await plan.wait()
    assert aborted.value.failed >= 3
    assert "exists" in aborted.value.reason or "cannot start" in aborted.value.reason
    # 0002 is another plan's: it stays.
    assert fleet.worker.in_state("ready") == {"echo/0002"}
    assert await balanced(client)


async def test_an_aborted_plan_may_keep_what_it_started(running: Running) -> None:
    fleet, client = running
    fleet.worker.failing = {"0003", "0004", "0005"}
    plan = await client.spawn("echo", 20, abort_ratio=0.1, on_abort="keep")
    with pytest.raises(PlanAborted):
        await plan.wait()
    assert len(fleet.worker.in_state("ready")) == 17
    assert plan.progress.ready == 17


async def test_agents_that_start_too_late_fail_and_are_rolled_back(running: Running) -> None:
    fleet, client = running
    fleet.worker.holding = {"0001"}
    plan = await client.spawn("echo", 3, abort_ratio=0.0, timeout=0.2)
    with pytest.raises(PlanAborted, match=r"echo/0001 did not answer '\$spawn' within 0.2 s"):
        await plan.wait()
    assert fleet.worker.in_state("ready") == fleet.worker.in_state("spawning") == set()


async def test_failures_within_the_ratio_are_counted_and_named(running: Running) -> None:
    fleet, client = running
    fleet.worker.failing = {"0003"}
    last = await (await client.spawn("echo", 20, abort_ratio=0.1)).wait()
    assert (last.state, last.ready, last.failed) == ("done", 19, 1)
    assert last.failures == {"echo/0003": "0003 cannot start"}


@pytest.mark.parametrize("on_abort", ["rollback", "keep"])
async def test_a_cancelled_plan_begins_nothing_more(running: Running, on_abort: Any) -> None:
    fleet, client = running
    fleet.worker.holding = {"0012"}
    plan = await client.spawn("echo", 30, wave_size=10, pacing="barrier")
    await fleet.worker.holds.wait()
    cancelling = fleet.group.create_task(client.cancel(plan.id, on_abort))
    if on_abort == "keep":
        async for progress in plan:
            if progress.reason:
                break
        fleet.worker.release()
    last = await cancelling
    assert last.state == "cancelled"
    assert last == await client.plan(plan.id)
    left = 20 if on_abort == "keep" else 0
    assert len(fleet.worker.in_state("ready")) == left
    assert "echo/0020" not in fleet.worker.agents
    with pytest.raises(PlanAborted, match="cancelled"):
        await plan.wait()


async def test_cancelling_what_is_not_there_or_has_ended_is_refused(running: Running) -> None:
    _, client = running
    with pytest.raises(CallError, match="there is no plan 'x'"):
        await client.cancel("x")
    await (await client.spawn("echo", 1, id="y")).wait()
    with pytest.raises(CallError, match="has ended: done"):
        await client.cancel("y")


async def test_agents_end_by_id_by_type_and_by_plan(running: Running) -> None:
    fleet, client = running
    one = await client.spawn("echo", 4)
    other = await client.spawn("echo", 4)
    await one.wait()
    await other.wait()
    answer = await client.terminate("echo/0000", "echo/0000", "echo/9999")
    assert (answer.terminated, list(answer.failed)) == (1, ["echo/9999"])
    answer = await client.terminate(plan=one.id)
    assert (answer.terminated, answer.failed) == (3, {})
    answer = await client.terminate(type="echo")
    assert (answer.terminated, answer.failed) == (4, {})
    assert fleet.worker.in_state("ready") == set()
    assert await balanced(client)


async def test_terminating_a_running_plan_cancels_it_first(running: Running) -> None:
    fleet, client = running
    fleet.worker.holding = {"0012"}
    plan = await client.spawn("echo", 30, wave_size=10, pacing="barrier")
    await fleet.worker.holds.wait()
    answer = await client.terminate(plan=plan.id)
    assert answer.terminated == 20
    assert (await client.plan(plan.id)).state == "cancelled"  # type: ignore[union-attr]
    assert fleet.worker.in_state("ready") == fleet.worker.in_state("spawning") == set()


async def test_terminating_must_name_one_kind(running: Running) -> None:
    _, client = running
    with pytest.raises(WrongBody, match="exactly one"):
        await client.request(CONTROL, TO_CONTROL, "$terminate_many", {"type": "echo", "plan": "x"}, 5.0)


async def test_another_leader_goes_on_behind_the_last_wave_that_ended(running: Running) -> None:
    fleet, client = running
    fleet.worker.holding = {"0015"}
    plan = await client.spawn("echo", 40, wave_size=10, pacing="barrier")
    await fleet.worker.holds.wait()
    # `manager-a` comes before `manager-b` in the order of names, so it is given the shard.
    await fleet.start_manager("manager-a")
    await fleet.leaders["manager-a"].wait()
    fleet.worker.release()
    last = await plan.wait()
    assert (last.state, last.ready, last.failed) == ("done", 40, 0)
    assert sorted(fleet.worker.starts) == [f"echo/{n:04d}" for n in range(40)]
    assert set(fleet.worker.starts.values()) == {1}
    assert await balanced(client)


async def test_another_leader_carries_a_verdict_out() -> None:
    request = PlanRequest("old", "echo", 3, ["a", "b", "c"])
    progress = PlanProgress("old", "echo", "running", 3, ready=3, reason="it was decided")
    record = KeptPlan(request, progress, began_ms=1, verdict="aborted", begun=3)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        fleet = Fleet(group)
        await fleet.start_worker()
        client = await fleet.client_of("client")
        for key in request.keys:
            spawn = SpawnAgent("old")
            await client.request(client.shard(f"echo/{key}"), f"echo/{key}", SPAWN, spawn, 5.0)
        # What a leader leaves that died after the verdict was recorded.
        lease = await client.broker.acquire(CONTROL, "dead leader", LEASE_MS)
        assert isinstance(lease, Lease)
        await client.broker.settle([Settlement(lease, [], {"plan/old": encode(record)})])
        await client.broker.release(lease)
        await fleet.start_manager("manager")
        told = await states(await client.submit_plan(request))
        assert told[-1].state == "aborted"
        assert told[-1].reason.startswith("it was decided; rolled back 3")
        assert fleet.worker.in_state("stopped") == {"echo/a", "echo/b", "echo/c"}
        for stop in reversed(fleet.stops):
            await stop()
        await client.finish()


async def test_only_the_newest_plans_that_ended_are_remembered(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "KEEP_PLANS", 3)
    _, client = running
    for number in range(5):
        await (await client.spawn("echo", 1, id=f"p{number}")).wait()
    assert {plan.id for plan in await client.plans()} == {"p4", "p3", "p2"}


async def test_a_plan_that_ended_keeps_no_keys(running: Running) -> None:
    _, client = running
    await (await client.spawn("echo", 50, id="big")).wait()
    kept = decode((await records(client))["plan/big"], KeptPlan)
    assert kept.request.keys == []
    assert kept.waiting == []
