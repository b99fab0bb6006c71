"""Children are started, started again, and ended; real processes, no waiting for time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from swell.backoff import Backoff
from swell.supervise import Child, Service, describe_exit

OBEDIENT = "import signal; signal.pause()"
STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: None)
if "DEAF" in os.environ:
    open(os.environ["DEAF"], "w").close()
while True:
    signal.pause()
"""
AT_ONCE = Backoff(0.001, 0.001)


class Heard:
    """A listener that keeps what it is told, for a test to wait for."""

    def __init__(self) -> None:
        self.starts: asyncio.Queue[int] = asyncio.Queue()
        self.ends: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

    def started(self, child: Child) -> None:
        self.starts.put_nowait(child.pid)

    def ended(self, child: Child, why: str, wait_s: float) -> None:
        self.ends.put_nowait((why, wait_s))


Make = Callable[[str], Child]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def make(heard: Heard, tmp_path: Path) -> Make:
    def child(code: str) -> Child:
        service = Service("test", (sys.executable, "-c", code), os.environ | {"GREETING": "hello"}, tmp_path / "log")
        return Child(service, heard, AT_ONCE)

    return child


@asynccontextmanager
async def running(child: Child) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        group.create_task(child.run())
        try:
            yield
        finally:
            child.kill()


async def test_a_child_that_is_killed_is_started_again(make: Make, heard: Heard) -> None:
    child = make(OBEDIENT)
    async with running(child):
        first = await heard.starts.get()
        os.kill(first, signal.SIGKILL)
        why, _ = await heard.ends.get()
        second = await heard.starts.get()
        assert why == "was ended by SIGKILL"
        assert second != first
        assert child.restarts == 1


async def test_waits_grow_while_a_child_keeps_ending(heard: Heard, tmp_path: Path) -> None:
    service = Service("test", (sys.executable, "-c", "raise SystemExit(3)"), os.environ, tmp_path / "log")
    async with running(Child(service, heard, Backoff(0.001, 0.004))):
        ends = [await heard.ends.get() for _ in range(4)]
    assert {why for why, _ in ends} == {"ended with code 3"}
    assert 0.0005 <= ends[0][1] <= 0.001
    assert 0.002 <= ends[3][1] <= 0.004


async def test_a_program_that_does_not_exist_is_told_and_tried_again(heard: Heard, tmp_path: Path) -> None:
    service = Service("test", (str(tmp_path / "missing"),), os.environ, tmp_path / "log")
    async with running(Child(service, heard, AT_ONCE)):
        for _ in range(2):
            why, _ = await heard.ends.get()
            assert why == "could not be started: No such file or directory"


async def test_stop_ends_a_child_with_sigterm_and_it_stays_ended(make: Make, heard: Heard) -> None:
    child = make(OBEDIENT)
    async with asyncio.TaskGroup() as group:
        run = group.create_task(child.run())
        await heard.starts.get()
        assert await child.stop(timeout_s=30)
        await run
    assert child.pid == 0
    assert heard.starts.empty()
    assert heard.ends.empty()


async def test_a_child_that_ignores_sigterm_is_killed_at_the_deadline(heard: Heard, tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    os.mkfifo(deaf)
    environ = os.environ | {"DEAF": str(deaf)}
    child = Child(Service("test", (sys.executable, "-c", STUBBORN), environ, tmp_path / "log"), heard)
    async with running(child):
        pid = await heard.starts.get()
        await asyncio.to_thread(deaf.read_text)  # ends when the child has opened its end: it is deaf now
        assert not await child.stop(timeout_s=0.05)
    assert not alive(pid)


async def test_a_child_that_was_never_started_can_be_stopped(make: Make) -> None:
    child = make(OBEDIENT)
    assert await child.stop(timeout_s=1)
    await child.run()
    assert child.pid == 0


async def test_cancelling_the_run_kills_the_process(make: Make, heard: Heard) -> None:
    child = make(OBEDIENT)
    async with asyncio.TaskGroup() as group:
        run = group.create_task(child.run())
        pid = await heard.starts.get()
        run.cancel()
    assert not alive(pid)


async def test_output_and_environment_go_through_the_log_and_the_variables(make: Make, heard: Heard) -> None:
    child = make("import os, sys; print(os.environ['GREETING']); print('and more', file=sys.stderr)")
    child.service.log.write_text("before\n")
    async with running(child):
        await heard.ends.get()
        assert child.service.log.read_text().startswith("before\nhello\nand more\n")
        assert child.log_start >= len("before\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent_code = f"""
import asyncio, os, sys
from pathlib import Path
from swell.supervise import Child, Service

class Quiet:
    def started(self, child):
        print(child.pid, flush=True)
    def ended(self, child, why, wait_s):
        pass

service = Service("test", (sys.executable, "-c", {STUBBORN!r}), os.environ, Path({str(tmp_path / "log")!r}))
asyncio.run(Child(service, Quiet()).run())
"""
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        watched = os.pidfd_open(pid)
        try:
            parent.kill()
            parent.wait()
            wait_for_end(watched)
        finally:
            os.close(watched)


def wait_for_end(pidfd: int) -> None:
    """Return when the process has ended; the test's own time limit is the deadline."""
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "ended with code 0"),
        (2, "ended with code 2"),
        (-15, "was ended by SIGTERM"),
        (-99, "was ended by signal 99"),
    ],
)
def test_exit_codes_are_told_in_words(code: int, said: str) -> None:
    assert describe_exit(code) == said
