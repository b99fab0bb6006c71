"""Time that passes when nothing else is to be done: an hour's wait is over at once, in the right order.

The loop asks its selector to wait for the next timer; this selector does not wait, but puts the clock forward to it.
While `virtual_clock` is on, `time.time`, `time.monotonic` and their `_ns` forms tell that clock: time limits, leases,
backoff and expiry follow it. `time.perf_counter` and code that bound those functions by `from time import` do not.

As long as a thread of the loop's executor works, time passes as it does outside. Waits for sockets and other processes
are not seen: what talks to them wants real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")
#: What a turn of the loop takes, seconds: whoever looks at the clock until it is late sees it move.
TURN_S = 1e-6


class Clock:
    """The time of a test: the real time when it began, and what was skipped since."""

    def __init__(self) -> None:
        self._real = time.monotonic
        self._began = time.monotonic_ns()
        self._wall = time.time_ns()
        self.passed_ns = 0

    def monotonic_ns(self) -> int:
        """As `time.monotonic_ns`."""
        return self._began + self.passed_ns

    def time_ns(self) -> int:
        """As `time.time_ns`."""
        return self._wall + self.passed_ns

    def skip(self, seconds: float) -> None:
        """Put the clock forward, by a nanosecond more than asked: what is due then is due."""
        self.passed_ns += int(seconds * 1e9) + 1

    @contextlib.contextmanager
    def real(self) -> Iterator[None]:
        """Time passes as outside while the body runs."""
        began = self._real()
        try:
            yield
        finally:
            self.skip(self._real() - began)


@contextlib.contextmanager
def virtual_clock() -> Iterator[Clock]:
    """Have the module `time` tell a clock of its own until the end of the body."""
    clock = Clock()
    mine: dict[str, Callable[[], Any]] = {
        "time_ns": clock.time_ns,
        "time": lambda: clock.time_ns() / 1e9,
        "monotonic_ns": clock.monotonic_ns,
        "monotonic": lambda: clock.monotonic_ns() / 1e9,
    }
    real = {name: getattr(time, name) for name in mine}
    try:
        for name, function in mine.items():
            setattr(time, name, function)
        yield clock
    finally:
        for name, function in real.items():
            setattr(time, name, function)


class _Selector(selectors.DefaultSelector):
    """Waits by putting the clock forward, unless a thread is at work."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        self._clock.skip(TURN_S)
        if found or (timeout is not None and timeout <= 0):
            return found
        if timeout is None or self.threads:
            with self._clock.real():
                return super().select(timeout)
        self._clock.skip(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time.

    Args:
        clock: that of `virtual_clock`.
    """

    def __init__(self, clock: Clock) -> None:
        self._waits = _Selector(clock)
        super().__init__(self._waits)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """As in every loop; time is real until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._waits.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._waits.threads -= 1


def run_in_virtual_time(main: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine function from beginning to end in virtual time; returns what it returns.

    Args:
        main: called without arguments.
    """
    with virtual_clock() as clock, asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(clock)) as runner:
        return runner.run(main())
