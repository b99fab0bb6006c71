"""The collector's totals as Prometheus reads them. Base units: seconds and counts; labels: the agent type alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector as PrometheusCollector

from swell.histogram import upper_us
from swell.instruments import COUNTERS, LATENCIES
from swell_metrics.collector import Totals

#: Upper bounds of the buckets exposed, seconds. Finer ones would cost a series each; quantiles come from `/v1/summary`.
BOUNDS_S = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


class Exposition(PrometheusCollector):
    """Families of all counters and latencies.

    Args:
        totals: asked at each scrape.
    """

    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """One family for each counter and latency of `swell.instruments`."""
        totals = self._totals()
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


def cumulative(buckets: dict[int, int]) -> list[tuple[str, float]]:
    """Counts up to each of BOUNDS_S, and of all; a bucket counts where its upper end lies."""
    counted: list[tuple[str, float]] = []
    ordered = sorted(buckets.items())
    total = 0
    place = 0
    for bound in BOUNDS_S:
        while place < len(ordered) and upper_us(ordered[place][0]) <= bound * 1e6:
            total += ordered[place][1]
            place += 1
        counted.append((repr(bound), total))
    counted.append(("+Inf", sum(buckets.values())))
    return counted
