"""The app that the integration tests' workers run; agents keep an account outside the system, in files of their own."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from swell import Agent, App, Crash, handler

app = App("tests")

#: Agents of one worker that wait for each other: name -> opened by `gate.open`.
_gates: dict[str, asyncio.Event] = {}


def _gate(name: str) -> asyncio.Event:
    return _gates.setdefault(name, asyncio.Event())


class Note(msgspec.Struct):
    """One numbered message of one sender."""

    sender: str
    seq: int


@app.agent("notary")
class Notary(Agent):
    """Writes down everything it is told, before it returns: one file for each agent and process."""

    async def started(self) -> None:
        directory = Path(os.environ["SWELL_TEST_ACCOUNT"])
        self._file = (directory / f"{self.key}.{os.getpid()}").open("a", buffering=1)

    @handler
    async def note(self, body: Note) -> None:
        self._file.write(f"{body.sender} {body.seq}\n")

    @handler
    async def note_twice(self, body: Note) -> int:
        await self.note(body)
        return 2 * body.seq

    @handler
    async def process(self) -> int:
        return os.getpid()


class Tally(msgspec.Struct):
    """What a `teller` keeps: how many notes it counted, and the newest of each sender."""

    count: int = 0
    newest: dict[str, int] = {}
    out_of_order: int = 0


@app.agent("teller")
class Teller(Notary):
    """Counts in its kept state what it also writes down, outside of the system."""

    state: Tally

    @handler
    async def note(self, body: Note) -> None:
        await super().note(body)
        if body.seq != self.state.newest.get(body.sender, -1) + 1:
            self.state.out_of_order += 1
        self.state.newest[body.sender] = body.seq
        self.state.count += 1

    @handler
    async def tally(self) -> Tally:
        return self.state


@app.agent("shaky", max_attempts=2, max_restarts=1)
class Shaky(Agent):
    """Says that what it stands on is broken."""

    @handler
    async def crash(self) -> None:
        raise Crash("my browser is gone")


@app.agent("gate")
class Gate(Agent):
    """Opens what `waiter` agents of the same worker wait at."""

    @handler
    async def open(self, body: str) -> None:
        _gate(body).set()


@app.agent("waiter", timeout=None)
class Waiter(Agent):
    """Handles nothing until its gate is open."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    @handler
    async def wait(self, body: int) -> None:
        await _gate(self.key).wait()
        self.seen.append(body)

    @handler
    async def add(self, body: int) -> None:
        self.seen.append(body)

    @handler
    async def all(self) -> list[int]:
        return self.seen


class Order(msgspec.Struct):
    """What `faulty` is told to do."""

    failures: int
    text: str = "on purpose"


@app.agent("faulty", max_attempts=3, timeout=0.3)
class Faulty(Agent):
    """Fails as it is told to."""

    def __init__(self) -> None:
        self.attempts = 0

    @handler
    async def fail(self, body: Order) -> int:
        self.attempts += 1
        if self.attempts <= body.failures:
            raise ValueError(body.text)
        done, self.attempts = self.attempts, 0
        return done

    @handler
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @handler
    async def give_up(self) -> None:
        raise asyncio.CancelledError

    @handler
    async def ok(self) -> str:
        return "ok"

    @handler
    async def long(self, body: int) -> bytes:
        return b"x" * body

    @handler
    async def unsendable(self) -> object:
        return object()


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """What `fragile` wants to start with."""

    mood: str


@app.agent("fragile", timeout=0.3)
class Fragile(Agent):
    """Starts only in a good mood."""

    async def started(self, args: Strict) -> None:
        if args.mood == "bad":
            raise RuntimeError("bad mood")
        if args.mood == "slow":
            await asyncio.Event().wait()

    @handler
    async def ok(self) -> str:
        return "ok"


@app.agent("caller")
class Caller(Agent):
    """Asks and tells others."""

    @handler
    async def relay(self, body: tuple[str, str]) -> str:
        to, name = body
        return await self.ask(to, name, None, str, timeout=5)

    @handler
    async def tell(self, body: list[tuple[str, int]]) -> int:
        return await self.send_many((to, "add", number) for to, number in body)
