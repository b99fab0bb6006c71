"""What one process tells Prometheus of itself: its gauges, and what Prometheus's own collectors know of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from swell.instruments import GAUGES


class ProcessMetrics(Collector):
    """The gauges of one process.

    Args:
        gauges: asked at each scrape; names are those of `instruments.GAUGES`.
    """

    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family for each gauge."""
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(GAUGES[name].metric, GAUGES[name].meaning, value)


def metrics_text(own: Collector) -> Callable[[], bytes]:
    """What `/metrics` answers: a collector's families, and the process's."""
    registry = CollectorRegistry()
    registry.register(own)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return lambda: generate_latest(registry)
