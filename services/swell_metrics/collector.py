r"""Adding up what all processes measured: totals for ever, and windows for rates. Pure: no I/O, no clock of its own.

Measurements --add--> Totals        since the namespace was made; saved with the entries that they count
\\--> windows       one for each second of the last minute; kept in memory alone
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from msgspec import Struct

from swell.histogram import Histogram
from swell.wire import Measurements

WINDOW_S = 1
WINDOWS = 60
#: A process that has not reported for so long is not shown any more, seconds.
FORGET_PROCESS_S = 60.0


class Totals(Struct):
    """Everything counted so far; what the shard `metrics` keeps as its record.

    Attributes:
        counts: counter -> agent type -> total.
        latencies: latency -> agent type -> bucket -> count.
        sums: latency -> agent type -> sum, microseconds.
        reports: reports added.
    """

    counts: dict[str, dict[str, int]] = {}
    latencies: dict[str, dict[str, dict[int, int]]] = {}
    sums: dict[str, dict[str, int]] = {}
    reports: int = 0

    def add(self, measured: Measurements) -> None:
        """Add a report."""
        self.reports += 1
        for name, by_type in measured.counts.items():
            totals = self.counts.setdefault(name, {})
            for type, count in by_type.items():
                totals[type] = totals.get(type, 0) + count
        for name, buckets_by_type in measured.latencies.items():
            kept = self.latencies.setdefault(name, {})
            for type, buckets in buckets_by_type.items():
                into = kept.setdefault(type, {})
                for bucket, count in buckets.items():
                    into[bucket] = into.get(bucket, 0) + count
        for name, sum_by_type in measured.sums.items():
            sums = self.sums.setdefault(name, {})
            for type, sum_us in sum_by_type.items():
                sums[type] = sums.get(type, 0) + sum_us

    def count(self, name: str, type: str | None = None) -> int:
        """A counter's total, of one type or of all."""
        by_type = self.counts.get(name, {})
        return sum(by_type.values()) if type is None else by_type.get(type, 0)

    def histogram(self, name: str, type: str | None = None) -> Histogram:
        """A latency's histogram, of one type or, merged exactly, of all."""
        merged = Histogram()
        for of, buckets in self.latencies.get(name, {}).items():
            if type is None or of == type:
                merged.merge(buckets, self.sums.get(name, {}).get(of, 0))
        return merged

    def types(self) -> list[str]:
        """All agent types that anything was counted for."""
        seen = {type for by_type in self.counts.values() for type in by_type}
        seen |= {type for by_type in self.latencies.values() for type in by_type}
        return sorted(seen - {""})


class Quantiles(Struct):
    """A latency distribution: how many, and milliseconds that 50, 95, 99 and 100 per cent do not exceed."""

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class TypeSummary(Struct):
    """What one agent type did, or all of them together.

    Attributes:
        handled, dead, expired, retried, spawned, terminated: totals.
        rate_10s, rate_60s: messages handled a second over the last 10 and 60 seconds.
        success: handled / (handled + dead + expired), None before any message ended.
        start: send to handler start. settled: send to settled. ready: spawn to ready.
    """

    handled: int
    dead: int
    expired: int
    retried: int
    spawned: int
    terminated: int
    rate_10s: float
    rate_60s: float
    success: float | None
    start: Quantiles
    settled: Quantiles
    ready: Quantiles


class ProcessSummary(Struct):
    """A process that reports: seconds since its last report, and its gauges."""

    age_s: float
    gauges: dict[str, float]


class Summary(Struct):
    """The answer of `/v1/summary`."""

    overall: TypeSummary
    types: dict[str, TypeSummary]
    counters: dict[str, int]
    processes: dict[str, ProcessSummary]
    reports: int


@dataclass(slots=True)
class _Window:
    """What was handled in one second, by type."""

    second: int
    handled: dict[str, int] = field(default_factory=dict)


class Collector:
    """Adds reports up and answers what they amount to.

    Args:
        totals: where to begin: what the former owner of the shard saved.
    """

    def __init__(self, totals: Totals | None = None) -> None:
        self.totals = totals or Totals()
        self._windows: deque[_Window] = deque(maxlen=WINDOWS)
        self._seen: dict[str, tuple[float, dict[str, float]]] = {}

    def add(self, measured: Measurements, now_s: float) -> None:
        """Add a report that came at `now_s` (monotonic seconds)."""
        self.totals.add(measured)
        self._seen[measured.process] = (now_s, measured.gauges)
        second = int(now_s)
        if not self._windows or self._windows[-1].second != second:
            self._windows.append(_Window(second))
        handled = self._windows[-1].handled
        for type, count in measured.counts.get("handled", {}).items():
            handled[type] = handled.get(type, 0) + count

    def rate(self, span_s: int, now_s: float, type: str | None = None) -> float:
        """Messages handled a second over the last `span_s` whole seconds before the one that runs now."""
        last = int(now_s)
        total = 0
        for window in self._windows:
            if last - span_s <= window.second < last:
                total += sum(window.handled.values()) if type is None else window.handled.get(type, 0)
        return total / span_s

    def summary(self, now_s: float) -> Summary:
        """All there is to say at `now_s` (monotonic seconds)."""
        totals = self.totals
        processes = {
            name: ProcessSummary(round(now_s - at, 3), gauges)
            for name, (at, gauges) in sorted(self._seen.items())
            if now_s - at < FORGET_PROCESS_S
        }
        self._seen = {name: seen for name, seen in self._seen.items() if name in processes}
        return Summary(
            overall=self._of(None, now_s),
            types={type: self._of(type, now_s) for type in totals.types()},
            counters={name: totals.count(name) for name in sorted(totals.counts)},
            processes=processes,
            reports=totals.reports,
        )

    def _of(self, type: str | None, now_s: float) -> TypeSummary:
        count = self.totals.count
        handled, dead, expired = count("handled", type), count("dead", type), count("expired", type)
        ended = handled + dead + expired
        return TypeSummary(
            handled=handled,
            dead=dead,
            expired=expired,
            retried=count("retried", type),
            spawned=count("spawned", type),
            terminated=count("terminated", type),
            rate_10s=self.rate(10, now_s, type),
            rate_60s=self.rate(60, now_s, type),
            success=handled / ended if ended else None,
            start=_quantiles(self.totals.histogram("start", type)),
            settled=_quantiles(self.totals.histogram("settled", type)),
            ready=_quantiles(self.totals.histogram("ready", type)),
        )


def _quantiles(histogram: Histogram) -> Quantiles:
    def ms(q: float) -> float:
        return histogram.quantile_us(q) / 1000

    return Quantiles(histogram.count, round(histogram.mean_us / 1000, 3), ms(0.5), ms(0.95), ms(0.99), ms(1.0))
