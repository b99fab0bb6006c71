"""Everything that is measured: the one table of names, and the recorder that every process has.

Counters, by agent type where one applies (metric `swell_<name>_total`):
see `COUNTERS`. Latencies, by agent type (metric `swell_message_<name>_seconds`): see `LATENCIES`.

Recording is an addition in this process; once a second what was added goes to the metrics service as a message like any
other. Nothing here waits, and nothing is lost while that service is away: additions go on adding up.
"""

from __future__ import annotations

from swell.histogram import Histogram
from swell.wire import Measurements

#: Counter -> (unit, what it counts).
COUNTERS: dict[str, tuple[str, str]] = {
    "handled": ("messages", "messages whose handler returned"),
    "failed_attempts": ("attempts", "runs of a handler that raised or ran past their time limit"),
    "retried": ("attempts", "runs of a handler after a failed one"),
    "dead": ("messages", "messages given up: dead letters"),
    "expired": ("messages", "messages that were too late to be handled"),
    "spawned": ("agents", "agents that became ready"),
    "restarted": ("agents", "agents started again after a takeover"),
    "terminated": ("agents", "agents ended on demand"),
    "parked": ("messages", "messages left in the stream because their agent's mailbox was full"),
    "takeovers": ("shards", "shards acquired"),
    "leases_lost": ("shards", "shards lost other than by handing over"),
    "redelivered": ("entries", "entries that an owner held when it died, found at takeover"),
    "stale_settles": ("settles", "settles refused because of an older epoch"),
    "malformed": ("entries", "entries that are no batch"),
    "busy_waits": ("appends", "appends refused because the shard was full, and tried again"),
    "append_retries": ("appends", "appends tried again because the server was away"),
    "sequence_gaps": ("appends", "appends refused because the server had forgotten our sequence: it lost data"),
    "replies_dropped": ("replies", "replies whose asker was gone"),
    "plans_done": ("plans", "plans that ended with all agents ready"),
    "plans_aborted": ("plans", "plans that ended before"),
}

#: Latency -> (from, to). Recorded in microseconds, exposed in seconds.
LATENCIES: dict[str, tuple[str, str]] = {
    "start": ("send() was called", "the handler begins"),
    "settled": ("send() was called", "the server has recorded the end of the message"),
    "ready": ("the spawn was sent", "the agent is ready"),
}

#: Gauge -> (unit, meaning).
GAUGES: dict[str, tuple[str, str]] = {
    "agents": ("agents", "agents hosted by a worker"),
    "awake": ("agents", "agents of a worker that are doing something"),
    "shards": ("shards", "shards that a process owns"),
    "memory_bytes": ("bytes", "resident memory of a process"),
}


class Recorder:
    """What one process measured since it last told.

    Args:
        process: who measures.
    """

    def __init__(self, process: str) -> None:
        self._process = process
        self._counts: dict[str, dict[str, int]] = {}
        self._latencies: dict[tuple[str, str], Histogram] = {}
        self._gauges: dict[str, float] = {}

    def count(self, name: str, type: str = "", by: int = 1) -> None:
        """Add `by` to a counter of `COUNTERS`, for an agent type if one applies."""
        if by:
            counts = self._counts.get(name)
            if counts is None:
                counts = self._counts[name] = {}
            counts[type] = counts.get(type, 0) + by

    def latency(self, name: str, type: str) -> Histogram:
        """The histogram of a latency of `LATENCIES` for an agent type; keep it, and call its `record`."""
        key = (name, type)
        histogram = self._latencies.get(key)
        if histogram is None:
            histogram = self._latencies[key] = Histogram()
        return histogram

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge of `GAUGES`."""
        self._gauges[name] = value

    def take(self) -> Measurements | None:
        """What was measured since the last call, None if that is nothing; counting begins at zero again.

        The histograms stay the same objects, so that those who record need not ask for them again.
        """
        counts, self._counts = self._counts, {}
        measured = Measurements(self._process, counts, gauges=dict(self._gauges))
        for (name, type), histogram in self._latencies.items():
            sparse = histogram.sparse()
            if sparse:
                measured.latencies.setdefault(name, {})[type] = sparse
                measured.sums.setdefault(name, {})[type] = histogram.sum_us
                histogram.counts[:] = [0] * len(histogram.counts)
                histogram.sum_us = 0
        if not (measured.counts or measured.latencies or measured.gauges):
            return None
        return measured

    def restore(self, measured: Measurements) -> None:
        """Put back what was taken and could not be told."""
        for name, by_type in measured.counts.items():
            for type, count in by_type.items():
                self.count(name, type, count)
        for name, buckets_by_type in measured.latencies.items():
            for type, buckets in buckets_by_type.items():
                self.latency(name, type).merge(buckets, measured.sums.get(name, {}).get(type, 0))
