"""`swell lock`, `lead` and `barrier`: a command that runs while something is held, and waiting for each other.

waiting --held--> the command runs --ended--> given back; its exit code is ours
   |                 |
   |                 +-- lost --> SIGTERM, after GRACE_S seconds SIGKILL; exit code LOST
   +-- SIGINT, SIGTERM, SIGHUP: the line is left; while the command runs they reach it
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from swell.cli import FAILED, complain
from swell.cli.facts import facts_of
from swell.cli.show import as_json
from swell.cli.target import Target
from swell.errors import ConfigError, LockLost
from swell.supervise import die_with

if TYPE_CHECKING:
    from swell.facts import Facts, Held

#: How long a command may take to end when what it runs under is lost, seconds.
GRACE_S = 5.0
#: Exit codes: what the command ran under was lost; it may not be run; there is none of that name; 128 and a signal.
LOST, NOT_RUN, NOT_FOUND, SIGNALLED = 75, 126, 127, 128
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Name = Annotated[str, Parameter(help="What is held, 1 to 512 bytes of printable text.")]
Words = Annotated[
    str, Parameter(allow_leading_hyphen=True, help="The command and its arguments, behind `--`. stdout is its own.")
]
Ttl = Annotated[float, Parameter(help="It is free so long after this process died, seconds, 0.1..3600.")]
Wait = Annotated[
    float | None, Parameter(help="The most to wait for it, seconds; 0 to ask once. No limit if not given.")
]


async def lock(
    name: Name,
    /,
    *command: Words,
    seats: Annotated[int | None, Parameter(help="A semaphore: so many may hold it at once.")] = None,
    ttl: Ttl = 10.0,
    wait: Wait = None,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Run a command while a lock is held, or a seat of a semaphore; exits with the command's code.

    The command has SWELL_LOCK (the name) and SWELL_LOCK_TOKEN (the fencing token) in its environment.
    """
    if seats is None:
        return await _run(lambda facts: facts.lock(name, ttl, wait=wait), command, target)
    limit = seats
    return await _run(lambda facts: facts.semaphore(name, limit, ttl, wait=wait), command, target)


async def lead(
    name: Name,
    /,
    *command: Words,
    ttl: Ttl = 10.0,
    wait: Wait = None,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Wait to be elected the leader of a name, and run a command for as long as the term lasts; otherwise as `lock`."""
    return await _run(lambda facts: facts.leader(name, ttl, wait=wait), command, target)


async def barrier(
    name: Annotated[str, Parameter(help="Where to wait, 1 to 512 bytes of printable text.")],
    /,
    *,
    parties: Annotated[int, Parameter(help="How many are to come.")],
    ttl: Annotated[float, Parameter(help="It counts so long after this process died, seconds, 0.1..3600.")] = 10.0,
    wait: Annotated[float | None, Parameter(help="The most to wait, seconds. No limit if not given.")] = None,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Wait until so many have come; prints as which of them this one came, and the generation they all are given."""
    signals = Signals()
    try:
        async with facts_of(target) as facts:
            found = await facts.barrier(name, parties, ttl).attend(wait)
    except asyncio.CancelledError:
        return signals.code()
    if found.generation is None:
        return complain(f"barrier {name!r}: {found.present} of {parties} had come after {wait:g} s", FAILED)
    if target.json:
        as_json({"name": name, "parties": parties, "arrived": found.arrived, "generation": found.generation})
    else:
        sys.stdout.write(f"came as {found.arrived} of {parties}, generation {found.generation}\n")
    return 0


async def _run(
    seat: Callable[[Facts], AbstractAsyncContextManager[Held]], command: Sequence[str], target: Target
) -> int:
    """Run a command under what is asked for; returns the exit code."""
    if not command:
        raise ConfigError("command", "say what to run, behind --, for example: swell lock deploy -- make release")
    signals = Signals()
    try:
        async with facts_of(target) as facts, seat(facts) as held:
            names = {"SWELL_LOCK": held.name, "SWELL_LOCK_TOKEN": str(held.token)}
            return await Command(command, os.environ | names).run(signals)
    except LockLost as error:
        return complain(f"{error}; the command was ended", LOST)
    except asyncio.CancelledError:
        return signals.code()


class Signals:
    """What SIGINT, SIGTERM and SIGHUP do: they end the task that waits, or reach the command that runs.

    Attributes:
        command: the one that runs, None while it is waited for.
    """

    def __init__(self) -> None:
        self.command: Command | None = None
        self._first: signal.Signals | None = None
        self._task = asyncio.current_task()
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._came, number)

    def _came(self, number: signal.Signals) -> None:
        if self.command is not None:
            self.command.forward(number)
            return
        self._first = self._first or number
        assert self._task is not None
        self._task.cancel()

    def code(self) -> int:
        """The exit code of one that a signal ended.

        Raises:
            CancelledError: it was something else.
        """
        if self._first is None:
            raise asyncio.CancelledError
        return SIGNALLED + self._first


class Command:
    """A command that runs: in a process group of its own, so that a signal reaches all that it started.

    On a terminal it shares ours, or it could not read from there; then Ctrl-C reaches it without our help. If we are
    killed, the kernel kills it (on Linux): it must not go on under a lock that nobody renews.
    """

    def __init__(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        self._words = words
        self._environ = environ
        self._apart = not os.isatty(0)
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, signals: Signals) -> int:
        """Run it to its end; returns its exit code, 128 and the signal if one ended it. Cancelled, it ends it."""
        group = 0 if self._apart else None
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._words, env=self._environ, process_group=group, preexec_fn=die_with(os.getpid())
            )
        except FileNotFoundError:
            return complain(f"command: there is no {self._words[0]!r} on PATH", NOT_FOUND)
        except OSError as error:
            return complain(f"command: {self._words[0]!r} cannot be run: {error.strerror or error}", NOT_RUN)
        signals.command = self
        try:
            code = await process.wait()
        except BaseException:
            await self._end(process)
            raise
        return code if code >= 0 else SIGNALLED - code

    def forward(self, number: signal.Signals) -> None:
        """Hand on what was sent to us."""
        if self._apart or number != signal.SIGINT:
            self._send(number)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE_S):
                await process.wait()
        except TimeoutError:
            self._send(signal.SIGKILL)
            await process.wait()

    def _send(self, number: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._apart:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)


__all__ = ["barrier", "lead", "lock"]
