"""A program as an agent: a process for each agent, JSON lines over its input and output.

    worker --{"id": 7, "name": "run", "body": ...}--> program --{"id": 7, "result": ...}--> worker
                                                             or {"id": 7, "error": "..."}

The program is started with its agent and knows it by the environment variable SWELL_AGENT. If it ends, the agent has
crashed: it is started again, with growing waits, as often as its type allows, and the message is tried again. A program
whose call takes too long, or that answers out of turn, is killed, and started again for the next message.
What it writes to its error output goes to the worker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swell.agent import Agent
from swell.codec import MAX_RESULT_BYTES
from swell.errors import AppError, Crash, SwellError
from swell.hosts.named import named_handlers
from swell.hosts.spawned import Spawned
from swell.supervise import describe_exit

#: A line that a program answers with, bytes; JSON takes more than MessagePack.
MAX_LINE_BYTES = 2 * MAX_RESULT_BYTES
#: How long a program may take to end by itself when its agent does, seconds.
GRACE_S = 5.0


class ProgramError(SwellError):
    """A program answered with an error, or with something that is no answer."""


def command(
    *argv: str,
    handlers: Sequence[str] = ("run",),
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> type[Agent]:
    """Make an agent class of a program.

    Args:
        argv: the program and its arguments; no shell reads them.
        handlers: names that messages may call; the program is told which.
        env: variables for it, beside those of the worker.
        cwd: its working directory; the worker's if None.

    Raises:
        AppError: there is no program, or no handler, or a name cannot be one.
    """
    if not argv or not all(isinstance(part, str) for part in argv):
        raise AppError(f"command {argv!r}: give the program and its arguments as strings, one by one")
    members = named_handlers(f"command {argv[0]!r}", handlers, _Program._call)
    members |= {"argv": argv, "env": dict(env or {}), "cwd": cwd, "_dying": set(), "__module__": __name__}
    return type("Program", (_Program,), members)


class _Program(Agent):
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str | Path | None
    #: Programs that were killed, of all agents, as far as they may be there still.
    _dying: set[Spawned]

    # Here and not in `__init__`, so that a class made of this one need not call that.
    _process: Spawned | None = None
    _last_resort: weakref.finalize[[], _Program] | None = None
    _calls = 0
    _dropped = False

    async def started(self) -> None:
        """Start the program.

        Raises:
            ProgramError: it cannot be started, or its agent is not here any more.
        """
        try:
            environ = os.environ | self.env | {"SWELL_AGENT": self.id}
            process = await Spawned.start(*self.argv, limit=MAX_LINE_BYTES, env=environ, cwd=self.cwd)
        except OSError as error:
            raise ProgramError(f"{self.argv[0]!r} could not be started: {error.strerror or error}") from None
        self._dying.difference_update([one for one in self._dying if not one.lives])
        self._kill()
        self._process = process
        # For whoever uses the class without a worker, which tells its instances when it drops them.
        self._last_resort = weakref.finalize(self, process.kill)
        self._last_resort.atexit = False
        if self._dropped:
            self._kill()
            raise ProgramError(f"{self.argv[0]!r} was not started: its agent is not here any more")

    def _swell_dropped(self) -> None:
        self._dropped = True
        self._kill()

    def _kill(self) -> None:
        """End the program at once, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            if self._last_resort is not None:
                self._last_resort.detach()
            process.kill()
            if process.lives:
                self._dying.add(process)

    @classmethod
    async def _swell_release(cls) -> None:
        while cls._dying:
            await cls._dying.pop().gone()

    async def stopped(self) -> None:
        """Close the program's input, ask it to end, and kill it if it does not."""
        process = self._process
        if process is None:
            return
        try:
            process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                process.process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_S):
                    await process.process.wait()
        finally:
            self._kill()

    async def _call(self, name: str, body: Any) -> Any:
        """Send one line and wait for its answer.

        Raises:
            Crash: the program has ended.
            ProgramError: it answered with an error, or out of turn.
        """
        if self._process is None:
            await self.started()
        process = self._process
        assert process is not None
        self._calls += 1
        line = json.dumps({"id": self._calls, "name": name, "body": body}, ensure_ascii=False, separators=(",", ":"))
        try:
            answer = _answer(await self._line(process, line.encode() + b"\n"), self._calls)
        except Crash:
            raise
        except BaseException:
            # What it still answers would be taken for the next one's answer.
            self._kill()
            raise
        if "error" in answer:
            raise ProgramError(str(answer["error"]))
        return answer.get("result")

    async def _line(self, process: Spawned, line: bytes) -> bytes:
        with contextlib.suppress(OSError):  # If it has ended, there is no answer either.
            process.stdin.write(line)
            await process.stdin.drain()
        try:
            answer = await process.stdout.readline()
        except ValueError:
            raise ProgramError(f"it answered with a line of more than {MAX_LINE_BYTES:,} bytes") from None
        if not answer.endswith(b"\n"):
            raise Crash(f"{self.argv[0]!r} {describe_exit(await process.process.wait())}")
        return answer


def _answer(line: bytes, number: int) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("id") != number or answer.keys().isdisjoint(("result", "error")):
        start = line[:200].decode(errors="replace").strip()
        raise ProgramError(f'it answered with {start!r} instead of {{"id": {number}, "result": ...}} or "error"')
    return answer
