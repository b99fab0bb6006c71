"""Child processes, kept running: started, started again with growing waits when they end, and ended in order.

    waiting --start--> running --ended by itself--> waiting (backoff) --> running ...
                          |
                          +--stop: SIGTERM, then SIGKILL at the deadline--> stopped

A child must not outlive us, even if we are killed with SIGKILL: on Linux the kernel sends it a SIGKILL then
(PR_SET_PDEATHSIG, set between fork and exec). A pipe that the child watches would need the child's help, and a
child that hangs would not give it. Being killed is what every service is built to survive. Where there is no such
call (macOS), children of a killed parent go on until they are stopped by hand.

Children have sessions of their own, so a Ctrl-C in the terminal reaches only us, and the order of ending is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from swell.backoff import Backoff
from swell.data_directory import open_log

#: Waits before a child that ended is started again.
RESTART = Backoff(0.2, 5.0)
#: A child that ran for so long was all right: the next wait is the first one again, seconds.
STEADY_S = 10.0
#: How long a killed child may take to be gone, seconds.
KILL_TIMEOUT_S = 5.0

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Service:
    """What to run.

    Attributes:
        name: shown to users, and the name of the log: manager, metrics, worker-1.
        command: the program and its arguments. No secret in it: everybody sees them.
        environ: all variables of the process; settings and their secrets travel here.
        log: file that its output is appended to.
        http: where its health checks are.
    """

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]
    log: Path
    http: str = ""


class Listener(Protocol):
    """Who wants to know what becomes of the children."""

    def started(self, child: Child) -> None:
        """A child's process runs; `child.restarts` tells whether it is the first."""
        ...

    def ended(self, child: Child, why: str, wait_s: float) -> None:
        """A child ended without being asked; it is started again in `wait_s` seconds."""
        ...


class Child:
    """One service's process, kept running from `run` to `stop`.

    Attributes:
        service: what runs.
        pid: the process that runs now, 0 if none does.
        restarts: how often it was started again.
        log_start: where in the log the output of this process begins, bytes.
    """

    def __init__(self, service: Service, listener: Listener, backoff: Backoff = RESTART) -> None:
        self.service = service
        self.restarts = 0
        self.log_start = 0
        self._listener = listener
        self._backoff = backoff
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._stopped.set()

    @property
    def pid(self) -> int:
        """The process that runs now, 0 if none does."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def run(self) -> None:
        """Keep the service running until `stop`. Cancelled, it kills the process."""
        self._stopped.clear()
        failures = 0
        clock = asyncio.get_running_loop().time
        try:
            while not self._stopping.is_set():
                began = clock()
                why = await self._run_once()
                if self._stopping.is_set():
                    return
                failures = 1 if clock() - began >= STEADY_S else failures + 1
                wait_s = self._backoff.wait_s(failures)
                self._listener.ended(self, why, wait_s)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait_s)
                self.restarts += 1
        finally:
            self._stopped.set()

    async def _run_once(self) -> str:
        """Start the process and wait for its end; returns how it ended."""
        try:
            with open_log(self.service.log) as log:
                self.log_start = log.tell()
                process = self._process = await asyncio.create_subprocess_exec(
                    *self.service.command,
                    env=dict(self.service.environ),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=die_with(os.getpid()),
                )
        except OSError as error:
            return f"could not be started: {error.strerror or error}"
        try:
            self._listener.started(self)
            if self._stopping.is_set():  # `stop` came while the process was being made and found none to end
                self._signal(signal.SIGTERM)
            return describe_exit(await process.wait())
        finally:
            if process.returncode is None:
                self._signal(signal.SIGKILL)
                await process.wait()

    async def stop(self, timeout_s: float) -> bool:
        """End the process: SIGTERM, and SIGKILL after `timeout_s` seconds; returns whether the first was enough."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout_s)
        except TimeoutError:
            self.kill()
            await asyncio.wait_for(self._stopped.wait(), KILL_TIMEOUT_S)
            return False
        return True

    def kill(self) -> None:
        """End the process at once and do not start it again."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def die_with(parent: int) -> Callable[[], None] | None:
    """What a child does before exec so that the kernel kills it when `parent` dies; None where that is not possible."""
    if sys.platform != "linux":
        return None
    # Looked up before the fork: between fork and exec nothing may be imported.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return arrange


def describe_exit(code: int) -> str:
    """An exit code of asyncio's subprocesses in words."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
