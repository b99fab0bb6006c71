"""Time limits: handlers that run too long are cancelled, whatever they make of it, and nothing else is."""

from __future__ import annotations

import asyncio

import pytest

from swell import Agent, App, HandlerFailed, handler
from swell_worker import retrying
from swell_worker.cell import Cell
from swell_worker.watchman import LEAST_S, MOST_S, look_every_s, overdue
from tests.unit.brokers import NO_WAIT, Rig, WorkerRig, rig_of

app = App("tests")
#: The limit of the type, seconds; the tests' own clock, not the wall, decides when it is over.
LIMIT_S = 10.0


class Log:
    """What the handlers did."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.hanging = asyncio.Event()


log = Log()


@app.agent("slow", max_attempts=2, timeout=LIMIT_S)
class Slow(Agent):
    async def _hang(self) -> None:
        log.hanging.set()
        await asyncio.Event().wait()

    @handler
    async def hang(self) -> None:
        await self._hang()

    @handler
    async def deaf(self, body: int) -> str:
        """Ignores that it is cancelled, `body` times."""
        for _ in range(body):
            try:
                await self._hang()
            except asyncio.CancelledError:
                log.events.append("ignored")
        return "done"

    @handler
    async def stubborn(self) -> None:
        """Answers its cancellation with an error of its own."""
        try:
            await self._hang()
        except asyncio.CancelledError:
            raise ValueError("not now") from None

    @handler
    async def self_made(self) -> None:
        raise asyncio.CancelledError

    @handler
    async def note(self, body: str) -> str:
        log.events.append(body)
        return body


@app.agent("free", timeout=None)
class Free(Slow):
    """Has no limit."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    global log
    log = Log()


class Watch:
    """The watchman with a clock of its own."""

    def __init__(self, worker: WorkerRig) -> None:
        self.worker = worker
        self.now = 0.0

    async def past_limit(self) -> list[Cell]:
        """Wait for a handler that hangs, then let its time pass; returns what was cancelled."""
        async with asyncio.timeout(5):
            await log.hanging.wait()
        log.hanging.clear()
        assert self.look() == []
        self.now += LIMIT_S
        late = self.look()
        for _ in range(5):
            await asyncio.sleep(0)
        return late

    def look(self) -> list[Cell]:
        late = overdue(self.worker.fleet.awake, self.now)
        for one in late:
            one.time_out(self.now)
        return late


async def started(rig: Rig, id: str = "slow/1") -> Watch:
    worker = await rig.start(app)
    await rig.spawn(id)
    return Watch(worker)


async def test_a_handler_that_hangs_is_a_failed_attempt_and_then_a_dead_letter() -> None:
    async with rig_of() as rig:
        watch = await started(rig)
        asking = asyncio.ensure_future(rig.client.ask("slow/1", "hang"))
        await watch.past_limit()
        await watch.past_limit()
        with pytest.raises(HandlerFailed, match="failed 2 times, at last: ran longer than 10 s"):
            await asking
        assert await rig.client.ask("slow/1", "note", "behind") == "behind"


async def test_a_handler_that_ignores_its_cancellation_is_cancelled_again_and_its_result_counts() -> None:
    async with rig_of() as rig:
        watch = await started(rig)
        asking = asyncio.ensure_future(rig.client.ask("slow/1", "deaf", 3))
        for _ in range(3):
            assert len(await watch.past_limit()) == 1
        assert await asking == "done"
        assert log.events == ["ignored"] * 3


@pytest.mark.parametrize(("name", "body", "looks"), [("deaf", 1, 1), ("stubborn", None, 2)])
async def test_behind_one_that_did_not_heed_it_the_next_is_cancelled_all_the_same(
    name: str, body: int | None, looks: int
) -> None:
    async with rig_of() as rig:
        watch = await started(rig)
        asking = asyncio.ensure_future(rig.client.ask("slow/1", name, body))
        for _ in range(looks):
            assert len(await watch.past_limit()) == 1
        await asyncio.wait({asking})
        # A cancellation of the handler's own making is its failure, not the end of the agent's task.
        with pytest.raises(HandlerFailed, match="RuntimeError"):
            await rig.client.ask("slow/1", "self_made")
        asking = asyncio.ensure_future(rig.client.ask("slow/1", "hang"))
        await watch.past_limit()
        await watch.past_limit()
        with pytest.raises(HandlerFailed, match="ran longer"):
            await asking
        await rig.settled()


async def test_a_lost_shard_ends_also_a_handler_that_is_being_timed_out() -> None:
    async with rig_of() as rig:
        watch = await started(rig)
        asking = asyncio.ensure_future(rig.client.ask("slow/1", "hang"))
        async with asyncio.timeout(5):
            await log.hanging.wait()
        watch.look()
        watch.now += LIMIT_S
        (late,) = watch.look()
        task = late.task
        assert task is not None
        watch.worker.consumer.lost(late.shard)
        await asyncio.wait({task})
        assert task.cancelled()
        asking.cancel()


async def test_a_type_without_a_limit_is_left_alone() -> None:
    async with rig_of() as rig:
        watch = await started(rig, "free/1")
        await rig.client.send("free/1", "hang")
        assert await watch.past_limit() == []


def test_it_looks_several_times_within_the_shortest_limit() -> None:
    def every(*limits: float | None) -> float | None:
        some = App("some")
        for number, limit in enumerate(limits):
            some.agent(f"t{number}", timeout=limit)(type(f"T{number}", (Agent,), {}))
        return look_every_s(some)

    assert every(None) is None
    assert every(1.0, None, 8.0) == 0.25
    assert every(0.001) == LEAST_S
    assert every(3600.0) == MOST_S
