"""A function in processes of its own: for work that computes, and that can be ended.

    worker --4 bytes length, MessagePack of the body--> child (child.py) --length, [ok, result or error]--> worker

One call at a time in a child. A call whose time is over, or whose agent goes elsewhere, has its child killed, and the
next one is started when it is needed: nothing computes on for nobody. Children die with their worker.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from swell.agent import Agent
from swell.codec import MAX_RESULT_BYTES, decode, encode
from swell.errors import AppError, SwellError
from swell.hosts.spawned import Spawned
from swell.supervise import describe_exit

#: Bytes of the length before each message.
LENGTH = 4


class Outcome(msgspec.Struct, array_like=True):
    """What came of a call: its result, or its error as text and traceback."""

    ok: bool
    result: msgspec.Raw
    traceback: str = ""


class RemoteError(SwellError):
    """A function in a process raised, or its process ended; the text says which."""


class Processes:
    """The processes of one agent type in one worker, started when they are needed.

    Args:
        call: the function; children import it by its name.
        most: processes at a time; None for one for each core.

    Raises:
        AppError: no module has the function by its name.
    """

    def __init__(self, call: Callable[..., Any], most: int | None) -> None:
        self.target = f"{call.__module__}:{call.__qualname__}"
        if "<" in call.__qualname__ or call.__module__ == "__main__":
            raise AppError(f"function {self.target!r} cannot run in a process: define it at the top of a module")
        self._most = most or os.cpu_count() or 1
        self._idle: list[Spawned] = []
        self._slots: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def handle(self, _: Agent, *body: Any) -> Any:
        """Run the function with a body in the next process that is free.

        Raises:
            RemoteError: it raised, or its process ended.
        """
        async with self._slots_here():
            child = await self._child()
            try:
                outcome = await _exchange(child, encode(list(body)))
            except BaseException:
                await end(child)
                raise
            self._idle.append(child)
        if not outcome.ok:
            error = RemoteError(decode(outcome.result, str))
            error.add_note(outcome.traceback)
            raise error
        return outcome.result

    def _slots_here(self) -> asyncio.Semaphore:
        """How many calls may run in this loop. Pipes belong to a loop: children of another one are ended."""
        loop = asyncio.get_running_loop()
        if self._slots is None or self._loop is not loop:
            while self._idle:
                self._idle.pop().kill()
            self._slots, self._loop = asyncio.Semaphore(self._most), loop
        return self._slots

    async def _child(self) -> Spawned:
        """A child that lives, and has imported the function."""
        while self._idle:
            child = self._idle.pop()
            if child.lives:
                return child
            child.kill()  # It has ended: its pipes go, too.
        child = await Spawned.start(sys.executable, "-m", "swell.hosts.child", self.target)
        try:
            began = await _reply(child)
        except BaseException:
            await end(child)
            raise
        if not began.ok:
            await end(child)
            raise RemoteError(f"the process of {self.target!r} could not begin: {decode(began.result, str)}")
        return child

    async def close(self) -> None:
        """End the children that wait; what runs goes on."""
        while self._idle:
            await end(self._idle.pop())


async def _exchange(child: Spawned, body: bytes) -> Outcome:
    try:
        child.stdin.write(len(body).to_bytes(LENGTH, "big") + body)
        await child.stdin.drain()
    except OSError:
        pass  # It has ended: so will the answer, and say how.
    return await _reply(child)


async def _reply(child: Spawned) -> Outcome:
    try:
        size = int.from_bytes(await child.stdout.readexactly(LENGTH), "big")
        if size > 2 * MAX_RESULT_BYTES:
            raise RemoteError(f"the result has {size:,} bytes; a message has at most {MAX_RESULT_BYTES:,}")
        return msgspec.msgpack.decode(await child.stdout.readexactly(size), type=Outcome)
    except asyncio.IncompleteReadError:
        raise RemoteError(f"its process {describe_exit(await child.process.wait())} while it ran") from None


async def end(child: Spawned) -> None:
    """Kill a child and see it gone, also if we are cancelled meanwhile."""
    child.kill()
    await asyncio.shield(child.gone())
