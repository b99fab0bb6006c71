"""Functions and programs as agents: results, errors, deaths, and that nothing runs on for nobody."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from swell import Agent, App, AppError, GiveUp, HandlerFailed, StartFailed, WrongBody, handler, hosts
from swell.hosts.processes import Processes
from swell_worker import life, retrying
from swell_worker.watchman import watch
from tests.unit import hosted
from tests.unit.brokers import NO_WAIT, Rig, rig_of

PROGRAM = [sys.executable, str(Path(__file__).with_name("program.py"))]
#: Longer than any test takes, seconds.
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)
    monkeypatch.setattr(life, "RESTART", NO_WAIT)


@asynccontextmanager
async def hosting(kind: Any, **limits: Any) -> AsyncIterator[Rig]:
    """A worker whose agents `it/1` and `it/2` are of this kind."""
    app = App("hosts")
    app.agent("it", **limits)(kind)
    async with rig_of() as rig:
        worker = await rig.start(app)
        watching = asyncio.ensure_future(watch(worker.fleet))
        try:
            await rig.spawn("it/1", "it/2")
            yield rig
            for id in ("it/1", "it/2"):
                await rig.client.request("0", id, "$terminate", None, PATIENCE_S)
        finally:
            watching.cancel()


def there(pid: int) -> bool:
    """Whether a process is there, or has ended and was not waited for."""
    return Path(f"/proc/{pid}").exists()


async def gone(pid: int) -> None:
    """Return when a process is no more."""
    async with asyncio.timeout(PATIENCE_S):
        while there(pid):
            await asyncio.sleep(0.01)


# Functions.


async def double(body: int) -> int:
    """Twice as much."""
    return 2 * body


async def test_a_coroutine_function_is_an_agent_with_a_handler_of_its_name() -> None:
    async with hosting(double) as rig:
        assert await rig.client.ask("it/1", "double", 21, int) == 42
        with pytest.raises(WrongBody, match="Expected `int`, got `str`"):
            await rig.client.ask("it/1", "double", "no number")


async def test_a_function_need_not_take_a_body_and_its_handler_may_have_another_name() -> None:
    async def answer() -> int:
        return 42

    async with hosting(hosts.function(answer, name="tell")) as rig:
        assert await rig.client.ask("it/1", "tell", None, int) == 42


def yields(most: int) -> Iterator[int]:
    yield most


async def count_to(most: int) -> AsyncIterator[int]:
    for number in range(most):
        yield number
    if most > 3:
        raise GiveUp("that is too far")


class Counter(Agent):
    """Yields in a method, and says when it is closed."""

    closed: list[str] = []  # noqa: RUF012 - the test reads it

    @handler
    async def count(self, most: int) -> AsyncIterator[int]:
        try:
            for number in range(most):
                yield 10 * number
            await asyncio.Event().wait()
        finally:
            self.closed.append(self.id)


async def test_what_an_asynchronous_generator_yields_is_emitted() -> None:
    async with hosting(count_to, max_attempts=1) as rig:
        parts = await rig.client.stream("it/1", "count_to", 3)
        assert [part async for part in parts] == [0, 1, 2]
        assert await parts.result() is None
        parts = await rig.client.stream("it/1", "count_to", 4)
        with pytest.raises(HandlerFailed, match="that is too far"):
            await parts.result()
        with pytest.raises(WrongBody):
            await rig.client.ask("it/1", "count_to", "many")


async def test_a_method_that_yields_is_closed_when_its_time_is_over() -> None:
    Counter.closed.clear()
    async with hosting(Counter, max_attempts=1, timeout=0.2) as rig:
        parts = await rig.client.stream("it/1", "count", 2)
        coming = aiter(parts)
        assert [await anext(coming), await anext(coming)] == [0, 10]
        with pytest.raises(HandlerFailed):
            await parts.result()
        assert Counter.closed == ["it/1"]


async def test_a_plain_function_runs_in_a_thread_and_two_agents_do_at_once() -> None:
    both = threading.Barrier(2, timeout=PATIENCE_S)

    def meet(body: str) -> list[Any]:
        both.wait()
        return [body, threading.current_thread() is threading.main_thread()]

    async with hosting(meet) as rig:
        answers = await asyncio.gather(*(rig.client.ask(f"it/{n}", "meet", "x") for n in (1, 2)))
        assert answers == [["x", False], ["x", False]]


async def test_a_thread_whose_time_is_over_holds_up_its_agents_next_message_and_no_other_agent() -> None:
    go_on = threading.Event()
    active: list[str] = []

    def work(body: str) -> list[str]:
        active.append(body)
        if body == "slow":
            assert go_on.wait(PATIENCE_S)
        active.remove(body)
        return list(active)

    async with hosting(work, timeout=0.05, max_attempts=1) as rig:
        with pytest.raises(HandlerFailed, match="ran longer than"):
            await rig.client.ask("it/1", "work", "slow")
        assert await rig.client.ask("it/2", "work", "other") == ["slow"]
        go_on.set()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    assert await rig.client.ask("it/1", "work", "next") == []
                    break
                except HandlerFailed:
                    continue


@asynccontextmanager
async def in_processes(function: Callable[..., Any], **limits: Any) -> AsyncIterator[tuple[Rig, Processes]]:
    kind = hosts.function(function, run_in="process", workers=2)
    pool = _pool_of(kind, function.__name__)
    async with hosting(kind, **limits) as rig:
        try:
            yield rig, pool
        finally:
            await pool.close()


def _pool_of(kind: type[Agent], name: str) -> Processes:
    """The processes behind a handler."""
    run = next(one.cell_contents for one in getattr(kind, name).__closure__)
    pool = run.__self__
    assert isinstance(pool, Processes)
    return pool


async def test_a_function_in_a_process_is_given_its_type_and_its_process_is_used_again() -> None:
    async with in_processes(hosted.add) as (rig, _):
        assert await rig.client.ask("it/1", "add", {"a": 1, "b": 2}, int) == 3
        with pytest.raises(WrongBody):
            await rig.client.ask("it/1", "add", {"a": 1})
    async with in_processes(hosted.process) as (rig, _):
        first = await rig.client.ask("it/1", "process", "", int)
        assert first != os.getpid()
        assert await rig.client.ask("it/2", "process", "", int) == first


async def test_an_error_in_a_process_and_its_death_are_the_messages_affair() -> None:
    async with in_processes(hosted.fail, max_attempts=1) as (rig, _):
        with pytest.raises(HandlerFailed, match="ValueError: no luck") as raised:
            await rig.client.ask("it/1", "fail", "luck")
        assert "hosted.py" in raised.value.detail["traceback"]
    async with in_processes(hosted.die, max_attempts=2) as (rig, _):
        with pytest.raises(HandlerFailed, match=r"failed 2 times.*was ended by SIGKILL"):
            await rig.client.ask("it/1", "die", "")
    async with in_processes(hosted.huge, max_attempts=1) as (rig, _):
        assert len(await rig.client.ask("it/1", "huge", 1000, str)) == 1000
        with pytest.raises(HandlerFailed, match="at most"):
            await rig.client.ask("it/1", "huge", 3 << 20)
        assert len(await rig.client.ask("it/1", "huge", 10, str)) == 10


async def test_a_process_whose_call_takes_too_long_is_killed(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    async with in_processes(hosted.note_and_hang, timeout=2.0, max_attempts=1) as (rig, _):
        with pytest.raises(HandlerFailed, match="ran longer than"):
            await rig.client.ask("it/1", "note_and_hang", str(note), timeout=PATIENCE_S)
        await gone(int(note.read_text()))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: hosts.function(lambda body: body), "cannot be an agent"),
        (lambda: hosts.function(double, run_in="thread"), "plain 'def'"),
        (lambda: hosts.function(count_to, run_in="process"), "plain 'def'"),
        (lambda: hosts.function(yields), "without 'yield'"),
        (lambda: hosts.function(hosted.add, run_in="loop"), "'async def'"),
        (lambda: hosts.function(double, workers=2), "workers 2"),
        (lambda: hosts.function(hosted.add, workers=0), "workers 0"),
        (lambda: hosts.function(lambda body: body, name="local", run_in="process"), "top of a module"),
        (lambda: hosts.function(hosted.add, name="ask"), "cannot be an agent"),
        (lambda: App("a").agent("x")(lambda a, b: 0), "cannot be an agent"),
        (hosts.command, "give the program"),
        (lambda: hosts.command("cat", handlers=[]), "at least one name"),
        (lambda: hosts.command("cat", handlers=["send"]), "'send' cannot be the name"),
        (lambda: hosts.command("cat", handlers=["a b"]), "'a b' cannot be the name"),
    ],
)
def test_what_cannot_be_hosted_is_said_when_it_is_declared(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(AppError, match=said):
        make()


# Programs.


async def test_a_program_is_told_its_agent_and_handler_and_lives_as_long_as_its_agent() -> None:
    async with hosting(hosts.command(*PROGRAM, handlers=["run", "walk"])) as rig:
        name, agent, body, pid, handled = await rig.client.ask("it/1", "run", {"n": [1, "ä\n"]})
        assert (name, agent, body, handled) == ("run", "it/1", {"n": [1, "ä\n"]}, 1)
        assert (await rig.client.ask("it/1", "walk", 2))[0::3] == ["walk", pid]
        assert (await rig.client.ask("it/2", "run", None))[3] != pid
    await gone(pid)


async def test_a_program_that_dies_is_a_crash_of_its_agent_and_the_message_is_tried_again() -> None:
    async with hosting(hosts.command(*PROGRAM), max_attempts=2, max_restarts=5) as rig:
        pid = (await rig.client.ask("it/1", "run", 1))[3]
        os.kill(pid, 9)
        await gone(pid)
        answer = await rig.client.ask("it/1", "run", 2)
        assert (answer[2], answer[4], answer[3] != pid) == (2, 1, True)
        with pytest.raises(HandlerFailed, match="was ended by SIGKILL"):
            await rig.client.ask("it/1", "run", "die")
        assert (await rig.client.ask("it/1", "run", 3))[2] == 3


async def test_a_program_that_is_killed_while_it_works_is_started_again_and_the_message_retried(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    async with hosting(hosts.command(*PROGRAM), max_attempts=2, max_restarts=5) as rig:
        asking = asyncio.ensure_future(rig.client.ask("it/1", "run", {"hang_once": str(path)}, timeout=PATIENCE_S))
        while not path.exists():
            await asyncio.sleep(0.01)
        pid = int(path.read_text())
        os.kill(pid, 9)
        answer = await asking
        assert (answer[2], answer[4]) == ({"hang_once": str(path)}, 1)
        assert answer[3] != pid


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("error", "it cannot be done"),
        ("nonsense", "answered with 'this is no answer'"),
        ("long", "a line of more than"),
    ],
)
async def test_errors_and_wrong_answers_of_a_program_fail_the_message_alone(body: str, said: str) -> None:
    async with hosting(hosts.command(*PROGRAM), max_attempts=1) as rig:
        before = (await rig.client.ask("it/1", "run", 1))[3]
        with pytest.raises(HandlerFailed, match=said):
            await rig.client.ask("it/1", "run", body)
        answer = await rig.client.ask("it/1", "run", 2)
        assert answer[2] == 2
        assert (answer[3] == before) == (body == "error"), "what answered out of turn is replaced"


async def test_a_program_that_hangs_is_killed_at_the_time_limit() -> None:
    async with hosting(hosts.command(*PROGRAM), timeout=2.0, max_attempts=1) as rig:
        pid = (await rig.client.ask("it/1", "run", 1))[3]
        with pytest.raises(HandlerFailed, match="ran longer than"):
            await rig.client.ask("it/1", "run", "hang", timeout=PATIENCE_S)
        await gone(pid)
        assert (await rig.client.ask("it/1", "run", 2))[2] == 2


async def test_a_program_ends_when_its_agent_goes_to_another_worker() -> None:
    app = App("hosts")
    app.agent("it")(hosts.command(*PROGRAM))
    async with rig_of() as rig:
        one = await rig.start(app)
        await rig.spawn("it/1")
        pid = (await rig.client.ask("it/1", "run", 1))[3]
        await rig.start(app)
        await one.leave()
        answer = await rig.client.ask("it/1", "run", 2)
        assert answer[3] != pid
        await gone(pid)
        await rig.client.request("0", "it/1", "$terminate", None, PATIENCE_S)


async def test_a_program_that_is_not_there_fails_its_agents() -> None:
    app = App("hosts")
    app.agent("it")(hosts.command("/nowhere/program"))
    async with rig_of() as rig:
        await rig.start(app)
        with pytest.raises(StartFailed, match="No such file"):
            await rig.spawn("it/1")


async def test_a_message_whose_handler_gives_up_is_not_tried_again() -> None:
    class Picky(Agent):
        runs = 0

        @handler
        async def take(self) -> None:
            Picky.runs += 1
            raise GiveUp("it would be the same again")

    async with hosting(Picky, max_attempts=5) as rig:
        with pytest.raises(HandlerFailed, match="failed 1 time, at last: GiveUp: it would be the same again"):
            await rig.client.ask("it/1", "take")
        assert Picky.runs == 1
        (letter,) = await rig.letters()
        assert letter.attempts == 1
