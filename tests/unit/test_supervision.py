"""Agents that crash: started anew, as often as allowed, then failed with the reason; nothing is lost or reordered."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest

from swell import Agent, App, Crash, HandlerFailed, UnknownAgent, handler
from swell.backoff import Backoff
from swell.bus import consumer, settler
from swell.errors import AppError, StartFailed
from swell_worker import life, retrying
from swell_worker.life import recent_ms
from tests.unit.brokers import NO_WAIT, Rig, WorkerRig, rig_of

app = App("tests")


class Log:
    """What the agents did, and what is to go wrong."""

    def __init__(self) -> None:
        self.started: dict[str, int] = defaultdict(int)
        self.attempts: dict[int, int] = defaultdict(int)
        self.handled: list[Any] = []
        self.failing_starts = 0
        self.hangs = asyncio.Event()


log = Log()


@app.agent("shaky", max_attempts=3, max_restarts=2)
class Shaky(Agent):
    async def started(self) -> None:
        log.started[self.id] += 1
        if log.failing_starts and log.started[self.id] > 1:
            log.failing_starts -= 1
            raise RuntimeError("no browser to be had")
        self.life = log.started[self.id]

    @handler
    async def crash(self, body: int) -> int:
        """Crashes `body` times."""
        log.attempts[body] += 1
        if log.attempts[body] <= body:
            raise Crash("my browser is gone")
        log.handled.append(body)
        return self.life

    @handler
    async def crash_in_group(self) -> int:
        async with asyncio.TaskGroup() as group:
            if self.life == 1:
                group.create_task(self._crash())
        return self.life

    async def _crash(self) -> None:
        raise Crash("in a task")

    @handler
    async def note(self, body: Any) -> int:
        log.handled.append(body)
        return self.life

    @handler
    async def fail(self) -> None:
        raise ValueError("bad input")

    @handler
    async def cancel_itself(self, body: str) -> None:
        log.attempts[0] += 1
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if body == "raises":
            raise ValueError("after it cancelled itself")
        if body == "waits":
            await asyncio.sleep(0)

    @handler
    async def deaf(self) -> None:
        """Takes its cancellation for a good reason to return."""
        log.hangs.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.handled.append("deaf")


@app.agent("unborn")
class Unborn(Agent):
    async def started(self) -> None:
        log.started[self.id] += 1
        raise Crash("never")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    monkeypatch.setattr(life, "RESTART", NO_WAIT)
    monkeypatch.setattr(settler, "RECONNECT", NO_WAIT)
    monkeypatch.setattr(consumer, "RECONNECT", NO_WAIT)
    global log
    log = Log()


def counted(worker: WorkerRig, name: str) -> int:
    return worker.recorder.counter(name, "shaky").n


async def restarts(rig: Rig) -> int:
    record = await rig.record("shaky/1")
    assert record is not None
    return record.restarts


async def test_a_crashed_agent_is_started_anew_and_its_message_tried_again_before_what_waits() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("shaky/1")
        await rig.client.send_many([("shaky/1", "crash", 1), ("shaky/1", "note", "behind")])
        await rig.settled()
        assert log.handled == [1, "behind"]
        assert await rig.client.ask("shaky/1", "note", "later") == 2
        assert (counted(worker, "crashed"), counted(worker, "restarted"), await restarts(rig)) == (1, 1, 1)
        assert await rig.letters() == []


async def test_a_crash_among_the_errors_of_a_task_group_is_one() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("shaky/1")
        assert await rig.client.ask("shaky/1", "crash_in_group") == 2


async def test_a_message_that_crashes_on_every_attempt_is_dead_and_the_agent_lives_on() -> None:
    roomy = App("roomy")
    roomy.agent("shaky", max_attempts=3, max_restarts=9)(Shaky)
    async with rig_of() as rig:
        await rig.start(roomy)
        await rig.spawn("shaky/1")
        with pytest.raises(HandlerFailed, match="failed 3 times, at last: Crash: my browser is gone"):
            await rig.client.ask("shaky/1", "crash", 9)
        assert await rig.client.ask("shaky/1", "note", "behind") == 4
        (letter,) = await rig.letters()
        assert (letter.kind, letter.attempts) == ("handler_failed", 3)


async def test_beyond_the_limit_it_is_failed_with_the_reason_and_what_waits_is_dead(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("shaky/1")
        await rig.client.send_many([("shaky/1", "crash", 9), ("shaky/1", "note", "behind")])
        await rig.settled()
        record = await rig.record("shaky/1")
        assert record is not None
        assert (record.state, record.restarts) == ("failed", 2)
        assert "started again 2 times within 60 s" in record.reason
        assert "my browser is gone" in record.reason
        with pytest.raises(UnknownAgent, match=r"is failed: .*my browser is gone"):
            await rig.client.ask("shaky/1", "note", "later")
        assert log.handled == []
        kinds = sorted((letter.name, letter.kind) for letter in await rig.letters())
        assert kinds == [("crash", "handler_failed"), ("note", "unknown_agent"), ("note", "unknown_agent")]
        (view,) = await rig.client.agents("shaky")
        assert (view.state, view.restarts, view.reason) == ("failed", 2, record.reason)
        assert (counted(worker, "crashed"), counted(worker, "restarted")) == (3, 2)
        texts = [one.message for one in caplog.records if one.name == "swell_worker.life"]
        assert [text.split(":")[0] for text in texts] == [
            "agent crashed, it is started again",
            "agent crashed, it is started again",
            "agent has failed",
        ]


async def test_a_failed_agent_may_be_spawned_again_and_begins_to_count_anew() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("shaky/1")
        with pytest.raises(HandlerFailed):
            await rig.client.ask("shaky/1", "crash", 9)
        await rig.spawn("shaky/1")
        assert await rig.client.ask("shaky/1", "crash", 2) == 4 + 2
        record = await rig.record("shaky/1")
        assert record is not None
        assert (record.state, record.generation, record.restarts) == ("ready", 2, 2)


async def test_other_errors_never_end_an_agent_however_many() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("shaky/1")
        await rig.client.send_many(("shaky/1", "fail", None) for _ in range(50))
        assert await rig.client.ask("shaky/1", "note", "behind") == 1
        assert (counted(worker, "crashed"), await restarts(rig)) == (0, 0)


async def test_a_start_that_fails_after_a_crash_is_another_crash_and_the_next_may_go_well() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("shaky/1")
        log.failing_starts = 1
        assert await rig.client.ask("shaky/1", "crash", 1) == 3
        assert (counted(worker, "crashed"), await restarts(rig)) == (2, 2)


async def test_a_start_that_fails_at_a_takeover_is_tried_again_within_the_limit() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.spawn("shaky/1")
        await first.leave()
        log.failing_starts = 2
        await rig.start(app)
        assert await rig.client.ask("shaky/1", "note", "here") == 4


async def test_a_start_that_fails_at_a_takeover_for_good_is_shown() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.spawn("shaky/1")
        await first.leave()
        log.failing_starts = 9
        await rig.start(app)
        with pytest.raises(UnknownAgent, match="no browser to be had"):
            await rig.client.ask("shaky/1", "note", "here")
        assert log.started["shaky/1"] == 1 + 3


async def test_the_window_survives_a_takeover() -> None:
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.spawn("shaky/1")
        await rig.client.ask("shaky/1", "crash", 2)
        await first.leave()
        await rig.start(app)
        with pytest.raises(HandlerFailed, match="my browser is gone"):
            await rig.client.ask("shaky/1", "crash", 1 + 2)
        record = await rig.record("shaky/1")
        assert record is not None
        assert record.state == "failed"


def test_restarts_count_within_the_window_only_whichever_way_the_clock_was_set() -> None:
    assert recent_ms([1_000, 41_000, 99_000, 101_000, 200_000], 100_000, 60.0) == [41_000, 99_000, 101_000]


async def test_the_first_start_that_fails_is_final_at_once() -> None:
    async with rig_of() as rig:
        await rig.start(app)
        with pytest.raises(StartFailed, match="Crash: never"):
            await rig.spawn("unborn/1")
        assert log.started["unborn/1"] == 1


async def test_a_hand_over_while_an_agent_waits_to_be_started_leaves_its_message_to_the_next_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(life, "RESTART", Backoff(0.05, 0.05))
    async with rig_of() as rig:
        first = await rig.start(app)
        await rig.spawn("shaky/1")
        await rig.client.send_many([("shaky/1", "crash", 1), ("shaky/1", "note", "behind")])
        await rig.until(lambda: asyncio.sleep(0, counted(first, "crashed") == 1))
        await first.leave()
        assert log.handled == []
        await rig.start(app)
        await rig.settled()
        assert log.handled == [1, "behind"]


@pytest.mark.parametrize("how", ["waits", "raises"])
async def test_a_handler_that_cancels_its_own_task_has_failed_and_the_next_message_is_handled(how: str) -> None:
    async with rig_of() as rig:
        await rig.start(app)
        await rig.spawn("shaky/1")
        await rig.client.send_many([("shaky/1", "cancel_itself", how), ("shaky/1", "note", "behind")])
        await rig.settled()
        (letter,) = await rig.letters()
        assert (letter.name, letter.attempts) == ("cancel_itself", 3)
        assert log.handled == ["behind"]


async def test_a_cancellation_left_behind_by_a_handler_that_returned_loses_nothing() -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("shaky/1")
        for number in range(5):
            await rig.client.send_many([("shaky/1", "cancel_itself", "returns"), ("shaky/1", "note", number)])
        await rig.settled()
        await rig.client.ask("shaky/1", "note", 5)
        await rig.client.ask("shaky/1", "cancel_itself", "returns")
        await rig.client.ask("shaky/1", "note", 6)
        assert log.handled == list(range(7))
        await worker.leave()


async def test_a_worker_whose_tasks_are_aborted_begins_nothing_new(recwarn: pytest.WarningsRecorder) -> None:
    async with rig_of() as rig:
        worker = await rig.start(app)
        await rig.spawn("shaky/1", "shaky/2")
        await rig.client.send_many([("shaky/1", "deaf", None), ("shaky/1", "note", 1), ("shaky/2", "note", 2)])
        await log.hangs.wait()
        group = worker.fleet._turns._group
        assert group is not None

        async def broken() -> None:
            raise OSError("a part of the worker is broken")

        group.create_task(broken())
        assert worker.ended is not None
        with pytest.raises(ExceptionGroup) as ended:
            await worker.ended
        rig.workers.remove(worker)
        assert [str(error) for error in ended.value.exceptions] == ["a part of the worker is broken"]
        assert len(recwarn) == 0
        assert "deaf" in log.handled


@pytest.mark.parametrize(
    ("options", "text"), [({"max_restarts": -1}, "max_restarts -1"), ({"restart_window": 0}, "window 0")]
)
def test_limits_out_of_bounds_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(AppError, match=text):
        App("x").agent("y", **options)
