"""What every system in the comparison provides, and what is the same for all. Standard library only.

Each system is one module beside this one. It runs in the virtual environment of that system, in two processes: one
sends (`Peer.sender`), one handles (`Peer.work`). Both are started by `benchmarks.peers.entry`.

A message is a string of 100 characters. Its first 20 tell when it was due (nanoseconds of the machine's monotonic
clock, which all processes share), or it begins with `-` if nobody asks for its latency.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

#: Characters of one message.
PAYLOAD = 100
_STAMP = 20
_UNTIMED = "-"
#: A message whose latency is not asked for.
PLAIN = _UNTIMED * PAYLOAD
_PAD = "x" * (PAYLOAD - _STAMP)


def stamped(due_ns: int) -> str:
    """A message that was due at `due_ns` of the monotonic clock."""
    return f"{due_ns:<{_STAMP}d}{_PAD}"


class Meter:
    """Counts what the handlers of this process take, and how late it was.

    Attributes:
        handled: messages taken since the process began.
        last_ns: when the last one was, monotonic clock.
    """

    def __init__(self) -> None:
        self.handled = 0
        self.last_ns = 0
        self._late_ns: array[int] = array("q")

    def take(self, payload: str) -> None:
        """Take one message: all that a one-way handler does."""
        now = time.monotonic_ns()
        self.handled += 1
        self.last_ns = now
        if payload[0] != _UNTIMED:
            self._late_ns.append(now - int(payload[:_STAMP]))

    def account(self) -> dict[str, Any]:
        """What was taken; the latencies (microseconds) since the last account."""
        late, self._late_ns = self._late_ns, array("q")
        return {"handled": self.handled, "last_ns": self.last_ns, "late_us": [ns // 1000 for ns in late]}


#: The one of this process.
meter = Meter()


class Sender(Protocol):
    """The sending side of a system."""

    async def send_all(self, payloads: Sequence[str]) -> None:
        """Send many, by the fastest way that the documentation names; returns when all are accepted."""

    async def send(self, payload: str) -> None:
        """Send one, as a caller that has only this one; returns when it is accepted."""

    async def ask(self, payload: str) -> str:
        """Send one and await the handler's result, which is the payload."""

    async def left(self) -> int:
        """How many messages the system still holds as waiting, running or not acknowledged."""


@dataclass(frozen=True)
class Facts:
    """What a reader must know to compare.

    Attributes:
        title: the name people use, with the transport that is measured.
        package: the distribution whose version is shown.
        delivery: what is promised for one message.
        after_kill: what becomes of a message whose worker is killed with SIGKILL.
        order: what is promised about order.
        asks: how the answer comes back; empty if there is no such thing.
        tuned: option of the system (as its documentation calls it) to what it was set to, and why.
        note: what else differs from the others.
        bulk: messages handed to `send_all` at once.
        worker: whether messages are handled by a worker process that the harness starts; else by the sending process,
            or by what that starts.
    """

    title: str
    package: str
    delivery: str
    after_kill: str
    order: str
    asks: str
    tuned: dict[str, str] = field(default_factory=dict)
    note: str = ""
    bulk: int = 1000
    worker: bool = True


class Peer(Protocol):
    """A module of this package that is a system."""

    FACTS: Facts

    def work(self, url: str) -> None:
        """Handle messages of the server at `url` until SIGTERM."""

    def sender(self, url: str) -> AbstractAsyncContextManager[Sender]:
        """Connect."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on the fastest loop that is installed."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main)
