"""The fleet's totals as Prometheus reads them. Base units: seconds and counts; labels: agent types and roles alone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as PrometheusCollector

from swell.alerts import Alert
from swell.bus.broker import Glance
from swell.histogram import bucket_of
from swell.instruments import ALERT_FIRING, COUNTERS, GAUGES, LATENCIES, LEDGER_COUNTERS, SHARD_GAUGES
from swell_metrics.collector import Collector
from swell_metrics.watch import Watch

#: Upper bounds of the buckets exposed: powers of two from 64 us to 67 s. Our own buckets end there too, so each count
#: is exact (whole microseconds below 64 are latencies below 64 us). Finer ones would cost a series each; quantiles come
#: from `/v1/summary`.
BOUNDS_US = tuple(1 << power for power in range(6, 27))


class Exposition(PrometheusCollector):
    """Families of all counters, latencies and gauges; without samples while another process owns the shard.

    Args:
        collector: asked at each scrape.
        watch: what was seen of the shards, and the alerts.
    """

    def __init__(self, collector: Callable[[], Collector], watch: Watch | None = None) -> None:
        self._collector = collector
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        """One family for each counter, latency and gauge of `swell.instruments`."""
        collector = self._collector()
        totals = collector.totals
        for name, row in COUNTERS.items():
            counter = CounterMetricFamily(row.metric, row.meaning, labels=["type"])
            for type, count in sorted(totals.counts.get(name, {}).items()):
                counter.add_metric([type], count)
            yield counter
        for name, row in LATENCIES.items():
            family = HistogramMetricFamily(row.metric, row.meaning, labels=["type"])
            for type, buckets in sorted(totals.latencies.get(name, {}).items()):
                family.add_metric([type], cumulative(buckets), totals.sums.get(name, {}).get(type, 0) / 1e6)
            yield family
        yield from _gauges(collector.live(time.monotonic()))
        if self._watch is not None:
            yield from _shards(self._watch.shards)
            yield _alerts(self._watch.alerts() if self._watch.shards else [])


def _shards(shards: Sequence[Glance]) -> Iterator[Metric]:
    """How each shard was when it was seen last, and what its ledger counts."""
    for name, row in SHARD_GAUGES.items():
        gauge = GaugeMetricFamily(row.metric, row.meaning, labels=["shard"])
        for one in shards:
            gauge.add_metric([one.ledger.shard], _GAUGES_OF_SHARDS[name](one))
        yield gauge
    for name, row in LEDGER_COUNTERS.items():
        counter = CounterMetricFamily(row.metric, row.meaning, labels=["shard"])
        for one in shards:
            counter.add_metric([one.ledger.shard], getattr(one.ledger, name))
        yield counter


_GAUGES_OF_SHARDS: dict[str, Callable[[Glance], float]] = {
    "depth_messages": lambda one: one.ledger.depth,
    "scheduled_messages": lambda one: one.ledger.scheduled,
    "oldest_seconds": lambda one: (one.oldest_ms or 0) / 1000,
    "owned": lambda one: bool(one.owner and one.remaining_ms),
    "lease_age_seconds": lambda one: one.held_ms / 1000 if one.owner and one.remaining_ms else 0.0,
    "lease_remaining_seconds": lambda one: one.remaining_ms / 1000,
}


def _alerts(alerts: Sequence[Alert]) -> Metric:
    family = GaugeMetricFamily(ALERT_FIRING.metric, ALERT_FIRING.meaning, labels=["name", "severity"])
    for alert in alerts:
        family.add_metric([alert.name, alert.severity], alert.state == "firing")
    return family


def _gauges(live: dict[str, dict[str, float]]) -> Iterator[Metric]:
    """Sums over the live processes of each role; each process exposes its own under other names."""
    sums: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    processes: defaultdict[str, float] = defaultdict(float)
    for process, gauges in live.items():
        role = process.partition("-")[0]
        processes[role] += 1
        for name, value in gauges.items():
            sums[name][role] += value
    for name, row in GAUGES.items():
        yield _by_role("swell_fleet_" + row.metric.removeprefix("swell_"), f"{row.meaning}, all processes", sums[name])
    yield _by_role("swell_fleet_processes", "processes that reported within ten seconds", processes)


def _by_role(metric: str, meaning: str, values: dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric, meaning, labels=["role"])
    for role, value in sorted(values.items()):
        family.add_metric([role], value)
    return family


def cumulative(buckets: dict[int, int]) -> list[tuple[str, float]]:
    """Counts below each of BOUNDS_US, written in seconds, and of all."""
    ordered = sorted(buckets.items())
    counted: list[tuple[str, float]] = []
    total = 0
    place = 0
    for bound in BOUNDS_US:
        end = bucket_of(bound)
        while place < len(ordered) and ordered[place][0] < end:
            total += ordered[place][1]
            place += 1
        counted.append((repr(bound / 1e6), total))
    counted.append(("+Inf", sum(buckets.values())))
    return counted
