"""A process with pipes to it, which can be ended at once, also by whoever finds that nobody holds it any more."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from typing import Any

from swell.supervise import die_with

#: Bytes that may wait to be read, and of a line.
LIMIT = 1 << 16


class Spawned:
    """A child process: it dies with us.

    Attributes:
        process: to wait for, and to signal.
        stdin: where it is written to.
        stdout: where it is read from.
    """

    def __init__(self, transport: asyncio.SubprocessTransport, process: Process) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin: asyncio.StreamWriter = process.stdin
        self.stdout: asyncio.StreamReader = process.stdout

    @classmethod
    async def start(cls, *argv: str, limit: int = LIMIT, **options: Any) -> Spawned:
        """Start a program.

        Args:
            argv: the program and its arguments; no shell reads them.
            limit: bytes of a line that can be read.
            options: `env` and `cwd`, as of `subprocess.Popen`.

        Raises:
            OSError: it cannot be started.
        """
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: SubprocessStreamProtocol(limit, loop),
            *argv,
            stdin=PIPE,
            stdout=PIPE,
            stderr=None,
            preexec_fn=die_with(os.getpid()),
            **options,
        )
        return cls(transport, Process(transport, protocol, loop))

    @property
    def lives(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self.process.returncode is None

    def kill(self) -> None:
        """End it at once, and close the pipes; also when the loop that it was started in is closed."""
        try:
            self._transport.close()
        except RuntimeError:  # It is: the pipes could not be closed, and the process was not reached.
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()

    async def gone(self) -> None:
        """Return when it has ended; at once if it was started in another loop, which alone is told."""
        if self._loop is asyncio.get_running_loop():
            await self.process.wait()
