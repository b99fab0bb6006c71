"""Everything that is measured: the one table of names, and the recorder that every process has.

Recording is an addition in this process; once a second what was added goes to the metrics service as a message like any
other. Nothing here waits, and nothing is lost while that service is away: additions go on adding up.

    histogram = recorder.latency("start", type)     once
    histogram.record(us)                            for each message
    recorder.count("parked", by=7)
    recorder.watch("agents", lambda: len(cells))    read when it is told
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from swell.histogram import Histogram
from swell.wire import Measurements


class Instrument(NamedTuple):
    """One row of the table.

    Attributes:
        unit: of what.
        meaning: one line for people.
        metric: its name for Prometheus (part of the API).
    """

    unit: str
    meaning: str
    metric: str


#: Counters; by agent type where one applies, else under the type "".
COUNTERS: dict[str, Instrument] = {
    name: Instrument(metric.partition("_")[0], meaning, f"swell_{metric}_total")
    for name, metric, meaning in (
        ("handled", "messages_handled", "messages whose handler returned"),
        ("failed_attempts", "attempts_failed", "runs of a handler that raised or ran past their time limit"),
        ("retried", "attempts_retried", "runs of a handler after a failed one"),
        ("dead", "messages_dead", "messages given up: dead letters"),
        ("expired", "messages_expired", "messages that were too late to be handled"),
        ("cancelled", "messages_cancelled", "messages that somebody cancelled before their handler returned"),
        ("spawned", "agents_spawned", "agents that became ready"),
        ("restarted", "agents_restarted", "agents started again after a takeover or a crash"),
        ("passivated", "agents_passivated", "idle agents let go until their next message"),
        ("woken", "agents_woken", "agents started again by a message after they had been let go"),
        ("quarantined", "agents_quarantined", "agents set apart"),
        ("pool_hits", "pool_hits", "agents that were set up ahead of time when they were wanted"),
        ("pool_misses", "pool_misses", "agents of types with a pool that had to be set up when they were wanted"),
        ("pool_failures", "pool_failures", "set-ups ahead of time that failed"),
        ("crashed", "agents_crashed", "crashes of agents: a handler raised Crash, or a restart failed"),
        ("failed", "agents_failed", "agents given up: they could not be started, or crashed too often"),
        ("terminated", "agents_terminated", "agents ended on demand"),
        ("parked", "messages_parked", "messages left in the stream because their agent's mailbox was full"),
        ("events", "events_read", "events that reached the owner of a shard (each shard counts its own)"),
        ("event_messages", "events_fanned_out", "messages that events became"),
        ("event_waits", "events_waited", "times that events waited because their shard was full"),
        ("tasks", "tasks_submitted", "tasks recorded"),
        ("tasks_done", "tasks_done", "tasks that ended with a result"),
        ("tasks_failed", "tasks_failed", "tasks that ended with an error"),
        ("tasks_cancelled", "tasks_cancelled", "tasks that somebody cancelled"),
        ("tasks_expired", "tasks_expired", "tasks whose time was over before a handler began"),
        ("takeovers", "shards_acquired", "shards acquired"),
        ("leases_lost", "shards_lost", "shards lost other than by handing over"),
        ("redelivered", "entries_redelivered", "entries that an owner held when it died, found at takeover"),
        ("stale_settles", "settles_stale", "settles refused because of an older epoch"),
        ("malformed", "entries_malformed", "entries that are no batch"),
        ("busy_waits", "appends_busy", "appends refused because the shard was full, and tried again"),
        ("busy_refusals", "sends_busy", "calls whose sender was told Busy because it would not wait longer for room"),
        ("duplicates", "appends_duplicate", "appends repeated after a lost answer, which the server had and refused"),
        ("append_retries", "appends_retried", "appends tried again because the server was away"),
        ("sequence_gaps", "appends_gap", "appends refused because the server had lost acknowledged ones"),
        ("replies_dropped", "replies_dropped", "replies whose asker was gone"),
        ("plans_done", "plans_done", "plans that ended with all agents ready"),
        ("plans_aborted", "plans_aborted", "plans that ended before"),
        ("webhook_failures", "webhook_failures", "requests to the webhook of alerts that failed, and are tried again"),
        ("alerts_untold", "alerts_untold", "changes of alerts given up because too many waited for the webhook"),
        ("unknown_names", "names_unknown", "measurements passed over because this release does not know their name"),
    )
}

#: Latencies by agent type, recorded in microseconds and exposed in seconds.
LATENCIES: dict[str, Instrument] = {
    "start": Instrument("seconds", "from send() to the start of the handler", "swell_message_start_seconds"),
    "settled": Instrument(
        "seconds", "from send() until the server has recorded the end of the message", "swell_message_settled_seconds"
    ),
    "task": Instrument("seconds", "from the record of a task to its outcome", "swell_task_seconds"),
    "cold_start": Instrument("seconds", "set-up of agents that no pool had ready", "swell_agent_cold_start_seconds"),
    "warm_start": Instrument("seconds", "set-up of agents that a pool had ready", "swell_agent_warm_start_seconds"),
    "ready": Instrument("seconds", "from the spawn of an agent until it is ready", "swell_agent_ready_seconds"),
}

#: Gauges of a process; the metrics service exposes their sums over the live processes of a role as `swell_fleet_...`.
GAUGES: dict[str, Instrument] = {
    "agents": Instrument("agents", "agents hosted", "swell_agents"),
    "awake": Instrument("agents", "agents that are doing something", "swell_agents_awake"),
    "warm": Instrument("agents", "agents set up ahead of time", "swell_agents_warm"),
    "tasks_queued": Instrument("tasks", "tasks that wait for an agent", "swell_tasks_queued"),
    "shards": Instrument("shards", "shards owned", "swell_shards"),
    "memory_bytes": Instrument("bytes", "resident memory", "swell_memory_bytes"),
}


#: Gauges of each shard, as the metrics service sees them; label `shard`.
SHARD_GAUGES: dict[str, Instrument] = {
    name: Instrument(unit, meaning, f"swell_shard_{name}")
    for name, unit, meaning in (
        ("depth_messages", "messages", "messages that are not settled"),
        ("scheduled_messages", "messages", "messages that wait for their time, and schedules"),
        ("oldest_seconds", "seconds", "age of the oldest entry that is not settled; 0 if there is none"),
        ("owned", "1", "1 if a process holds the lease, else 0"),
        ("lease_age_seconds", "seconds", "time since the lease was granted to its owner"),
        ("lease_remaining_seconds", "seconds", "time until the lease lapses unless it is renewed"),
    )
}

#: Counters of each shard's ledger, exposed as `swell_ledger_..._total`; label `shard`.
LEDGER_COUNTERS: dict[str, Instrument] = {
    name: Instrument(unit, meaning, f"swell_ledger_{name}_total")
    for name, unit, meaning in (
        ("sent", "messages", "messages appended"),
        ("acked", "messages", "messages handled"),
        ("dead", "messages", "messages given up"),
        ("expired", "messages", "messages that were too late"),
        ("duplicate", "appends", "appends refused because the server had them already"),
        ("refused", "appends", "appends refused because the shard was full"),
        ("stale", "settles", "settles refused because of an older epoch"),
        ("rewinds", "appends", "appends whose producer knew of later ones: the server had lost them"),
        ("lapsed", "leases", "takeovers from an owner that had not renewed its lease"),
        ("foreign", "entries", "entries found in the inbox that no append had written"),
        ("replayed", "messages", "dead letters that became messages again"),
        ("dropped", "messages", "dead letters that somebody deleted"),
    )
}

#: The gauge of alerts; labels `name` and `severity`.
ALERT_FIRING = Instrument("1", "1 while the alert fires, else 0", "swell_alert_firing")


class Counter:
    """How often something happened since it was last told."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class Recorder:
    """What one process measured since it last told.

    Args:
        process: who measures.
    """

    def __init__(self, process: str) -> None:
        self._process = process
        self._counters: dict[tuple[str, str], Counter] = {}
        self._latencies: dict[tuple[str, str], Histogram] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def count(self, name: str, type: str = "", by: int = 1) -> None:
        """Add `by` to a counter of `COUNTERS`, for an agent type if one applies."""
        self.counter(name, type).n += by

    def counter(self, name: str, type: str = "") -> Counter:
        """A counter of `COUNTERS`, for an agent type if one applies; keep it, and add to its `n`."""
        key = (name, type)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = Counter()
        return counter

    def latency(self, name: str, type: str) -> Histogram:
        """The histogram of a latency of `LATENCIES` for an agent type; keep it, and call its `record`."""
        key = (name, type)
        histogram = self._latencies.get(key)
        if histogram is None:
            histogram = self._latencies[key] = Histogram()
        return histogram

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Have a gauge of `GAUGES` read whenever measurements are taken."""
        self._gauges[name] = read

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge of `GAUGES`."""
        self.watch(name, lambda: value)

    def gauges(self) -> dict[str, float]:
        """All gauges, as they are now."""
        return {name: read() for name, read in self._gauges.items()}

    def take(self) -> Measurements | None:
        """What was measured since the last call, None if that is nothing; counting begins at zero again.

        A process with gauges always has something to say, so that its silence means something.
        Counters and histograms stay the same objects, so that those who record need not ask for them again.
        """
        measured = Measurements(self._process, {}, gauges=self.gauges())
        for (name, type), counter in self._counters.items():
            if counter.n:
                measured.counts.setdefault(name, {})[type] = counter.n
                counter.n = 0
        for (name, type), histogram in self._latencies.items():
            sparse = histogram.sparse()
            if sparse:
                measured.latencies.setdefault(name, {})[type] = sparse
                measured.sums.setdefault(name, {})[type] = histogram.sum_us
                histogram.clear()
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


def resident_bytes() -> float:
    """Resident memory of this process, bytes; where the system does not tell, the most it ever was."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return float(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except OSError:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Bytes on macOS, KiB elsewhere: getrusage(2).
        return float(peak if sys.platform == "darwin" else peak * 1024)
