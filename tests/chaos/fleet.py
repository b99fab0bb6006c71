"""The app of the chaos tests: agents that keep an account outside the system of everything they handle.

Each process has one file, `account.<pid>`; a line is written by one `write` on an append-only descriptor before the
handler returns, so a process that is killed has written all that it could have acked:

    agent sender seq life began_ns ended_ns

`life` tells one start of an agent from the next in the same process. Times are monotonic: on Linux all processes of a
machine share that clock, and no test can shift it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

import msgspec

from swell import Agent, App, handler
from tests.chaos.clocks import follow_test_clock

app = App("chaos")

#: How long `slow` takes for a message, seconds.
SLOW_S = 0.02
#: After so long a hanging handler of `poison` is cancelled, seconds.
POISON_TIMEOUT_S = 0.5

_lives = itertools.count()
_file: list[int] = []

if "SWELL_TEST_CLOCK" in os.environ:
    follow_test_clock(Path(os.environ["SWELL_TEST_CLOCK"]))


def _descriptor() -> int:
    if not _file:
        path = Path(os.environ["SWELL_TEST_ACCOUNT"]) / f"account.{os.getpid()}"
        _file.append(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644))
    return _file[0]


class Note(msgspec.Struct):
    """One numbered message of one sender to one agent."""

    sender: str
    seq: int


class Accountable(Agent):
    """An agent that can write down what it handled."""

    def __init__(self) -> None:
        self._life = next(_lives)

    def write_down(self, note: Note, began_ns: int) -> None:
        line = f"{self.id} {note.sender} {note.seq} {self._life} {began_ns} {time.monotonic_ns()}\n"
        os.write(_descriptor(), line.encode())


@app.agent("notary")
class Notary(Accountable):
    """Writes down what it is told, at once."""

    @handler
    async def note(self, body: Note) -> int:
        self.write_down(body, time.monotonic_ns())
        return body.seq


@app.agent("slow", timeout=None)
class Slow(Accountable):
    """Writes down what it is told after a while; what it began may be cut anywhere."""

    @handler
    async def note(self, body: Note) -> int:
        began_ns = time.monotonic_ns()
        await asyncio.sleep(SLOW_S)
        self.write_down(body, began_ns)
        return body.seq


@app.agent("poison", max_attempts=2, timeout=POISON_TIMEOUT_S)
class Poison(Accountable):
    """Writes down notes, and does worse on demand."""

    @handler
    async def note(self, body: Note) -> int:
        self.write_down(body, time.monotonic_ns())
        return body.seq

    @handler
    async def fail(self) -> None:
        raise ValueError("on purpose")

    @handler
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @handler
    async def leave(self) -> None:
        os._exit(7)

    @handler
    async def crash(self) -> None:
        signal.raise_signal(signal.SIGKILL)


@app.agent("mayfly")
class Mayfly(Agent):
    """Comes and goes in large numbers."""

    @handler
    async def echo(self, body: int) -> int:
        return body


@app.agent("inspector")
class Inspector(Agent):
    """Looks at the process that it lives in."""

    @handler
    async def look(self) -> tuple[int, int]:
        return os.getpid(), len(asyncio.all_tasks())
