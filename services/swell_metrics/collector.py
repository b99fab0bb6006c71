"""Adding up what all processes measured: totals for ever, and windows for rates. Pure: no I/O, no clock of its own.

    Measurements --add--+--> Totals     since the namespace was made; saved with the entries that they count
                        +--> windows    one for each second of the last minute; kept in memory alone
                        +--> processes  when each reported last, and its gauges

All of it is bounded: names are those of `swell.instruments`, types at most MAX_TYPES, processes at most MAX_PROCESSES.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from swell.histogram import Histogram
from swell.wire import Measurements

#: Seconds of which the increases are kept, one window each.
WINDOWS = 60
#: Agent types that are told apart; what comes beyond counts together as OTHER, so that nothing is lost.
MAX_TYPES = 1000
OTHER = "(other)"
MAX_PROCESSES = 10_000
#: A process that has not reported for so long counts no longer as live; every process reports once a second.
LIVE_S = 10.0
#: A process that has not reported for so long is not shown any more, seconds.
FORGET_PROCESS_S = 60.0


class Totals(Struct):
    """Everything counted so far; what the shard `metrics` keeps as its record.

    Attributes:
        counts: counter -> agent type -> total.
        latencies: latency -> agent type -> bucket -> count.
        sums: latency -> agent type -> sum, microseconds.
        reports: reports added.
        through: id of the last entry that is in here; see `swell_metrics.host`.
    """

    counts: dict[str, dict[str, int]] = {}
    latencies: dict[str, dict[str, dict[int, int]]] = {}
    sums: dict[str, dict[str, int]] = {}
    reports: int = 0
    through: str = "0-0"

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


class Collector:
    """Adds reports up and answers what they amount to.

    Args:
        totals: where to begin: what the former owner of the shard saved.
    """

    def __init__(self, totals: Totals | None = None) -> None:
        self.totals = totals or Totals()
        self._types = set(self.totals.types())
        # Second -> agent type -> messages handled.
        self._windows: dict[int, dict[str, int]] = {}
        # Process -> when it reported last, and its gauges.
        self._seen: dict[str, tuple[float, dict[str, float]]] = {}

    def add(self, measured: Measurements, now_s: float, age_s: float = 0.0) -> None:
        """Add a report that was checked (`swell_metrics.reading`).

        Args:
            measured: what a process counted.
            now_s: now, monotonic seconds.
            age_s: how long ago it was sent. A report that waited for us while we were away is no sign of life and
                belongs to no recent second; a clock ahead of ours makes it negative, which counts as 0.
        """
        at_s = now_s - max(age_s, 0.0)
        self._bound_types(measured)
        self.totals.add(measured)
        if measured.process not in self._seen and len(self._seen) >= MAX_PROCESSES:
            del self._seen[min(self._seen, key=lambda name: self._seen[name][0])]
        if at_s >= self._seen.get(measured.process, (at_s,))[0]:
            self._seen[measured.process] = (at_s, measured.gauges)
        if at_s > now_s - WINDOWS - 1:
            self._add_window(int(at_s), int(now_s), measured.counts.get("handled", {}))

    def _add_window(self, second: int, now: int, handled: dict[str, int]) -> None:
        window = self._windows.get(second)
        if window is None:
            self._windows = {at: one for at, one in self._windows.items() if at >= now - WINDOWS}
            window = self._windows[second] = {}
        for type, count in handled.items():
            window[type] = window.get(type, 0) + count

    def _bound_types(self, measured: Measurements) -> None:
        """Rename the types beyond MAX_TYPES to OTHER; those that came first keep their names."""
        groups: list[Mapping[str, object]] = [*measured.counts.values(), *measured.latencies.values()]
        groups += measured.sums.values()
        new = {type for by_type in groups for type in by_type} - self._types - {""}
        room = MAX_TYPES - len(self._types - {OTHER})
        if len(new) <= room:
            self._types |= new
            return
        beyond = sorted(new)[max(room, 0) :]
        self._types |= new - set(beyond)
        for counts in (*measured.counts.values(), *measured.sums.values()):
            for type in beyond:
                if type in counts:
                    counts[OTHER] = counts.get(OTHER, 0) + counts.pop(type)
        for latencies in measured.latencies.values():
            for type in beyond:
                for bucket, count in latencies.pop(type, {}).items():
                    other = latencies.setdefault(OTHER, {})
                    other[bucket] = other.get(bucket, 0) + count

    def rate(self, span_s: int, now_s: float, type: str | None = None) -> float:
        """Messages handled a second over the last `span_s` whole seconds before the one that runs now."""
        now = int(now_s)
        recent = (one for second, one in self._windows.items() if now - span_s <= second < now)
        return sum(sum(one.values()) if type is None else one.get(type, 0) for one in recent) / span_s

    def live(self, now_s: float) -> dict[str, dict[str, float]]:
        """The gauges of the processes that reported within LIVE_S."""
        return {name: gauges for name, (at, gauges) in self._seen.items() if now_s - at < LIVE_S}

    def summary(self, now_s: float) -> Summary:
        """All there is to say at `now_s` (monotonic seconds)."""
        totals = self.totals
        processes = {
            name: ProcessSummary(round(max(now_s - at, 0.0), 3), gauges)
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
