"""What a worker lets go of is gone at once, whoever still refers to it: no program outlives its agent."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from swell import Agent, App, Crash, HandlerFailed, PlanAborted, handler, hosts
from swell.hosts import program
from swell.testing import Fleet, fleet_test
from swell_worker import life, retrying
from tests.unit.brokers import NO_WAIT, Rig, WorkerRig, rig_of
from tests.unit.test_hosts import PATIENCE_S, PROGRAM, gone, there


class Told(Agent):
    """Notes its instances, and which of them it was told of."""

    made: ClassVar[list[Told]] = []
    dropped: ClassVar[list[Told]] = []

    def __init__(self) -> None:
        self.made.append(self)

    async def started(self, how: str | None) -> None:
        if how == "fails":
            raise RuntimeError("it cannot start")

    def _swell_dropped(self) -> None:
        self.dropped.append(self)

    @handler
    async def note(self) -> int:
        return len(self.made)

    @handler
    async def crash(self) -> None:
        raise Crash("broken")

    @handler
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @classmethod
    def here(cls) -> int:
        """Instances that are somebody's, as far as they were told; none is told of that was not made."""
        assert set(cls.dropped) <= set(cls.made)
        return len(set(cls.made) - set(cls.dropped))


@pytest.fixture(autouse=True)
def fresh() -> None:
    Told.made.clear()
    Told.dropped.clear()


def app_of(kind: Any = Told, **options: Any) -> App:
    app = App("tests")
    app.agent("it", **options)(kind)
    return app


@fleet_test(app_of(max_attempts=1), workers=2)
async def test_an_instance_is_told_when_its_worker_drops_it(fleet: Fleet) -> None:
    await fleet.spawn("it", keys=["a"])
    assert Told.here() == 1
    with pytest.raises(HandlerFailed):
        await fleet.client.ask("it/a", "crash", timeout=60)
    assert await fleet.client.ask("it/a", "note", timeout=60) == 2
    assert Told.dropped == Told.made[:1], "it crashed"
    await fleet.stop_worker((await fleet.client.agents())[0].worker)
    assert await fleet.client.ask("it/a", "note", timeout=60) == 3
    assert Told.dropped == Told.made[:2], "it was handed over"
    await fleet.start_worker()
    await fleet.kill_worker()
    assert Told.dropped == Told.made[:3], "its worker was killed"
    assert await fleet.client.ask("it/a", "note", timeout=60) == 4
    await fleet.client.terminate("it/a")
    assert Told.here() == 0
    with pytest.raises(PlanAborted):
        await fleet.spawn("it", keys=["b"], args="fails")
    assert (len(Told.made), Told.here()) == (5, 0), "its start failed"


@fleet_test(app_of(idle_after=10))
async def test_an_instance_is_told_when_it_is_let_go_because_it_was_idle(fleet: Fleet) -> None:
    await fleet.spawn("it", keys=["a"])
    await asyncio.sleep(15)
    assert (len(Told.made), Told.here()) == (1, 0)
    assert await fleet.client.ask("it/a", "note") == 2
    assert Told.here() == 1


async def test_instances_of_a_lost_shard_are_told_at_once_busy_or_not() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app_of())
        await rig.spawn("it/1", "it/2")
        await rig.client.send("it/1", "hang")
        await rig.until(lambda: busy(worker))
        worker.consumer.lost(worker.consumer.owned["0"])
        assert (len(Told.made), Told.here()) == (2, 0)


async def busy(worker: WorkerRig) -> bool:
    return any(cell.busy for cell in worker.fleet.awake)


@fleet_test(app_of(warm=2))
async def test_instances_that_nobody_took_are_told_when_their_worker_ends(fleet: Fleet) -> None:
    await asyncio.sleep(5)
    assert Told.here() == 2
    await fleet.stop_worker()
    assert Told.here() == 0
    await fleet.start_worker()
    await asyncio.sleep(5)
    assert Told.here() == 2
    await fleet.kill_worker()
    assert Told.here() == 0


# Programs. A failed message leaves a cycle of an exception and its frames, which holds the instance: nothing is freed
# here unless somebody says so.


@pytest.fixture
def nothing_collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    monkeypatch.setattr(life, "RESTART", NO_WAIT)
    gc.disable()
    yield
    gc.enable()


async def after_a_bad_answer(rig: Rig) -> int:
    """The process of a program that gave a bad answer, and was started again."""
    for _ in range(3):
        with pytest.raises(HandlerFailed, match="answered with 'this is no answer'"):
            await rig.client.ask("it/1", "run", "nonsense")
    pid: int = (await rig.client.ask("it/1", "run", 1))[3]
    assert there(pid)
    return pid


@pytest.mark.usefixtures("nothing_collected")
async def test_a_program_that_answered_wrongly_ends_when_its_agent_goes_to_another_worker() -> None:
    app = app_of(hosts.command(*PROGRAM), max_attempts=2)
    async with rig_of() as rig:
        one = await rig.start(app)
        await rig.spawn("it/1")
        pid = await after_a_bad_answer(rig)
        await rig.start(app)
        await one.leave()
        assert (await rig.client.ask("it/1", "run", 2))[3] != pid
        await gone(pid)


@pytest.mark.usefixtures("nothing_collected")
async def test_a_program_that_answered_wrongly_ends_when_its_agent_is_let_go_or_its_worker_dies() -> None:
    app = app_of(hosts.command(*PROGRAM), max_attempts=2, idle_after=0.5)
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("it/1")
        await gone(await after_a_bad_answer(rig))
        pid = await after_a_bad_answer(rig)
        await worker.die()
        await gone(pid)


@pytest.mark.usefixtures("nothing_collected")
async def test_a_program_that_works_for_a_lost_shard_ends_at_once_and_none_is_started_for_it() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app_of(hosts.command(*PROGRAM)))
        await rig.spawn("it/1", "it/2")
        pids = [(await rig.client.ask(f"it/{n}", "run", 1))[3] for n in (1, 2)]
        await rig.client.send("it/1", "run", "hang")
        await rig.until(lambda: busy(worker))
        (agent,) = [cell._agent for cell in worker.fleet.awake]
        assert isinstance(agent, program._Program)
        worker.consumer.lost(worker.consumer.owned["0"])
        for pid in pids:
            await gone(pid)
        with pytest.raises(program.ProgramError, match="its agent is not here any more"):
            await agent._call("run", 2)
        assert agent._process is None


@pytest.mark.usefixtures("nothing_collected")
async def test_a_program_that_is_started_again_leaves_nothing_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []

    class Noted(weakref.finalize):  # type: ignore[type-arg]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(weakref, "finalize", Noted)
    async with rig_of() as rig:
        await rig.start(app_of(hosts.command(*PROGRAM), max_attempts=2))
        await rig.spawn("it/1")
        await after_a_bad_answer(rig)
        assert len(made) == 7
        assert [one.alive for one in made] == [False] * 6 + [True]
        await rig.client.request("0", "it/1", "$terminate", None, PATIENCE_S)
        assert not any(one.alive for one in made)


def test_a_program_is_ended_quietly_when_its_instance_outlives_the_loop() -> None:
    script = f"""
import asyncio
from swell import hosts

agent = hosts.command(*{PROGRAM!r})()

async def main():
    await agent.started()
    print(agent._process.process.pid)

asyncio.run(main())
del agent
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert "Event loop is closed" not in done.stderr, done.stderr
    assert not there(int(done.stdout))
