"""One turn of one system: a fresh server, worker and sender; throughput, latency at two rates, round trips."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.contract import Facts
from benchmarks.peers.figures import AtRate, Turn, at_rate, quantile
from benchmarks.peers.processes import Child, PeerFailed, server

#: Messages a second of the open-loop measures.
RATES = (500, 5_000)
ASKERS = 100
#: Messages sent first, so that everything is connected, imported and warm.
WARM = 200
#: A flood that nobody handles for so long is given up, seconds.
STALLED_S = 4.0
#: Between two looks at the worker's count, seconds.
LOOK_S = 0.02
#: The most messages of one flood: bounds the memory of the server.
MOST = 2_000_000
#: A worker handles its first message by then, seconds.
START_S = 20.0
#: Time for a command beyond what it asks for, seconds.
MARGIN_S = 30.0


@dataclass(frozen=True)
class Sizes:
    """How long each part of a turn takes, seconds."""

    flood_s: float = 2.0
    rate_s: float = 1.5
    ask_s: float = 1.5


QUICK = Sizes(flood_s=0.5, rate_s=0.5, ask_s=0.5)


class Running:
    """A system at work."""

    def __init__(self, facts: Facts, sender: Child, worker: Child | None) -> None:
        self._facts = facts
        self._sender = sender
        self._worker = worker or sender
        self._late_us: list[int] = []

    def take_turn(self, sizes: Sizes) -> Turn:
        """Measure everything once.

        Raises:
            PeerFailed: it cannot do its work.
        """
        self._flood(WARM, START_S)
        # Two shorter floods find how many messages the time holds.
        count = 1000
        for seconds in (sizes.flood_s / 8, sizes.flood_s / 2):
            count = self._sized(self._flood(count, STALLED_S).throughput, seconds)
        turn = self._flood(self._sized(self._flood(count, STALLED_S).throughput, sizes.flood_s), STALLED_S)
        rates = [self._at_rate(rate, sizes.rate_s) for rate in RATES]
        turn = replace(turn, rates=rates)
        return self._asks(turn, sizes.ask_s) if self._facts.asks else turn

    @staticmethod
    def _sized(rate: float, seconds: float) -> int:
        return min(MOST, max(200, int(rate * seconds)))

    def _flood(self, count: int, patience_s: float) -> Turn:
        before = self._worker.ask(START_S, do="account")["handled"]
        began_ns = self._sender.ask(MARGIN_S, do="flood", count=count)["began_ns"]
        seen = self._drained(before + count, patience_s)
        handled = seen["handled"] - before
        left = self._left()
        ended_ns = max(seen["last_ns"], time.monotonic_ns())
        if not handled:
            raise PeerFailed(f"handled none of {count} messages")
        if handled != count or left:
            # It stood still until it was given up: the wait is not its own.
            ended_ns = seen["last_ns"]
        return Turn(count, handled, left, handled / ((ended_ns - began_ns) / 1e9))

    def _drained(self, wanted: int, patience_s: float) -> dict[str, int]:
        """Wait until so many are handled in all, or nothing has moved for a while."""
        seen = self._worker.ask(START_S, do="account")
        late: list[int] = seen["late_us"]
        moved = time.monotonic()
        while seen["handled"] < wanted and time.monotonic() - moved < patience_s:
            time.sleep(LOOK_S)
            now = self._worker.ask(START_S, do="account")
            late += now["late_us"]
            if now["handled"] != seen["handled"]:
                moved = time.monotonic()
            seen = now
        self._late_us = late
        return seen

    def _left(self) -> int:
        """What is not acknowledged yet, once that has come to rest."""
        left: int = self._sender.ask(START_S, do="left")["left"]
        moved = time.monotonic()
        while left and time.monotonic() - moved < STALLED_S:
            now: int = self._sender.ask(START_S, do="left")["left"]
            if now != left:
                moved = time.monotonic()
            left = now
        return left

    def _at_rate(self, rate: int, seconds: float) -> AtRate:
        # Warm at this rate: pools open their connections when they are first needed.
        self._once_at_rate(rate, seconds / 5)
        return self._once_at_rate(rate, seconds)

    def _once_at_rate(self, rate: int, seconds: float) -> AtRate:
        before = self._worker.ask(START_S, do="account")["handled"]
        sent = self._sender.ask(seconds + MARGIN_S, do="rate", rate=rate, seconds=seconds)
        seen = self._drained(before + sent["sent"], STALLED_S)
        return at_rate(rate, sent["due"], sent["sent"], sent["began_ns"], seen["last_ns"], self._late_us)

    def _asks(self, turn: Turn, seconds: float) -> Turn:
        self._sender.ask(MARGIN_S, do="ask", askers=ASKERS, seconds=seconds / 4)  # Warms what only asks need.
        seen = self._sender.ask(seconds + MARGIN_S, do="ask", askers=ASKERS, seconds=seconds)
        took = seen["took_us"]
        p50, p95 = (quantile(took, q) / 1000 for q in (0.5, 0.95))
        return replace(turn, asks=len(took) / seen["seconds"], ask_p50_ms=p50, ask_p95_ms=p95)


def measure(name: str, facts: Facts, python: Path, sizes: Sizes, aof: bool) -> Turn:
    """Start a server and the processes of a system, measure, and end them.

    Args:
        name: the system's module.
        facts: about it.
        python: the interpreter of its environment.
        sizes: how long each part takes.
        aof: whether the server keeps an append-only file (everysec).

    Raises:
        PeerFailed: it cannot do its work.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(server(directory, aof))
        worker = None
        if facts.worker:
            worker = Child(python, ["work", name, url], directory / "worker.log")
            stack.callback(worker.close)
        sender = Child(python, ["send", name, url], directory / "sender.log")
        stack.callback(sender.close)
        return Running(facts, sender, worker).take_turn(sizes)
