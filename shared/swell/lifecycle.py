"""The life of a service's process: its name, its loop, its signals, and its way to the server."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable

from swell.backoff import RECONNECT
from swell.bus.broker import Broker
from swell.errors import BrokerUnavailable, SwellError

log = logging.getLogger(__name__)

#: Allocations between two looks of the garbage collector at young objects. Messages make no cycles and die young, so
#: looking every 700 allocations, the default, finds nothing.
GC_THRESHOLDS = (50_000, 20, 100)


#: What a stopping service has at least for sending what was given to it, when draining took all its time, seconds.
LEAST_FINISH_S = 1.0


def left_s(deadline: float) -> float:
    """Seconds until a deadline (monotonic), at least LEAST_FINISH_S: the last step of a drain is not skipped."""
    return max(LEAST_FINISH_S, deadline - time.monotonic())


def process_name(role: str) -> str:
    """A name for this start of this process: `role-host-pid-random`, safe as a part of keys."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
    return f"{role}-{host}-{os.getpid()}-{secrets.token_hex(3)}"


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run a service until it ends by itself or is told to; returns the exit code.

    SIGTERM or SIGINT sets the event that `main` is given: drain, then return. A second SIGINT cancels `main`.
    What cannot work (a wrong setting, a server that refuses us) is one line on stderr and exit code 2.
    """
    from swell.logs import visible  # Only services log; importing a client costs no logging library.

    tune_gc()
    code = 0
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_until_stopped(main))
    except* SwellError as errors:
        for error in _leaves(errors):
            sys.stderr.write("swell: " + visible(str(error), keep="\n\t") + "\n")
        code = 2
    except* (KeyboardInterrupt, asyncio.CancelledError):
        code = 130
    return code


async def _until_stopped(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    gc.freeze()
    await main(stop)


def tune_gc() -> None:
    """Let the garbage collector look less often; see GC_THRESHOLDS."""
    gc.set_threshold(*GC_THRESHOLDS)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop: uvloop's where the platform has it, else None for asyncio's own."""
    try:
        import uvloop
    except ImportError:  # Not made for this platform.
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _leaves(group: BaseExceptionGroup[SwellError]) -> list[SwellError]:
    leaves: list[SwellError] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


async def open_broker(broker: Broker, shards: int, stop: asyncio.Event) -> int:
    """Open a broker, trying for as long as the server is away; returns the namespace's number of shards, 0 if stopped.

    Raises:
        BrokerRefused: the server will not have us, however often we try.
    """
    failures = 0
    while not stop.is_set():
        try:
            return await broker.open(shards)
        except BrokerUnavailable as error:
            failures += 1
            if failures == 1:
                log.warning("waiting for the server: %s", error)
        try:
            async with asyncio.timeout(RECONNECT.wait_s(failures)):
                await stop.wait()
        except TimeoutError:
            continue
    return 0
