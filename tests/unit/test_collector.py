"""Totals, rates and quantiles of the fleet; what is refused, what is bounded, and how Prometheus sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from swell.codec import decode, encode
from swell.errors import WireError
from swell.histogram import BUCKETS, SUB, Histogram
from swell.instruments import COUNTERS, GAUGES, LATENCIES
from swell.wire import MEASURE, TO_METRICS, Measurements, Message
from swell_metrics import collector as module
from swell_metrics.collector import OTHER, Collector, Totals
from swell_metrics.exposition import BOUNDS_US, Exposition, cumulative
from swell_metrics.reading import read_report

NOW_S = 1000.5


def handled(process: str = "worker-1", **by_type: int) -> Measurements:
    return Measurements(process, {"handled": dict(by_type)})


def of_latencies(values: list[int], name: str = "start", type: str = "echo") -> Measurements:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return Measurements("worker-1", {}, {name: {type: histogram.sparse()}}, {name: {type: histogram.sum_us}})


def added(*reports: Measurements) -> Collector:
    collector = Collector()
    for one in reports:
        # A collector may rewrite what it is given, so each test gives it a copy, as decoding does.
        collector.add(decode(encode(one), Measurements), NOW_S)
    return collector


# Totals.


def test_totals_add_up_by_type_and_overall() -> None:
    summary = added(handled(echo=3), handled("worker-2", echo=4, review=5)).summary(NOW_S)
    assert (summary.types["echo"].handled, summary.types["review"].handled, summary.overall.handled) == (7, 5, 12)
    assert summary.reports == 2


def test_counters_without_a_type_are_part_of_the_whole_alone() -> None:
    summary = added(Measurements("worker-1", {"takeovers": {"": 8}})).summary(NOW_S)
    assert (summary.counters, summary.types) == ({"takeovers": 8}, {})


REPORTS = st.lists(
    st.builds(
        Measurements,
        st.sampled_from(["worker-1", "worker-2"]),
        st.dictionaries(
            st.sampled_from(sorted(COUNTERS)),
            st.dictionaries(st.sampled_from(["", "a", "b"]), st.integers(0, 1 << 40), max_size=3),
            max_size=3,
        ),
        st.dictionaries(
            st.sampled_from(sorted(LATENCIES)),
            st.dictionaries(
                st.sampled_from(["a", "b"]),
                st.dictionaries(st.integers(0, BUCKETS - 1), st.integers(1, 1000), max_size=5),
                max_size=2,
            ),
            max_size=2,
        ),
    ),
    max_size=8,
)


@given(REPORTS, st.randoms())
def test_the_order_of_reports_does_not_matter(reports: list[Measurements], chance: Any) -> None:
    shuffled = reports[:]
    chance.shuffle(shuffled)
    assert added(*reports).totals == added(*shuffled).totals


@given(REPORTS, REPORTS)
def test_a_successor_goes_on_exactly_where_the_saved_totals_end(
    before: list[Measurements], after: list[Measurements]
) -> None:
    successor = Collector(decode(encode(added(*before).totals), Totals))
    for one in after:
        successor.add(decode(encode(one), Measurements), NOW_S)
    assert successor.totals == added(*before, *after).totals


@given(st.lists(st.integers(0, 1 << 30), min_size=1, max_size=100), st.lists(st.integers(0, 1 << 30), max_size=100))
def test_quantiles_of_the_fleet_are_those_of_all_its_messages(left: list[int], right: list[int]) -> None:
    summary = added(of_latencies(left), of_latencies(right)).summary(NOW_S)
    exact = sorted(left + right)
    start = summary.overall.start
    assert start.count == len(exact)
    assert exact[-1] - 0.001 <= start.max_ms * 1000 <= exact[-1] * (1 + 1 / SUB) + 0.001


@pytest.mark.parametrize(
    ("counts", "ratio"),
    [
        ({}, None),
        ({"handled": {"echo": 3}}, 1.0),
        ({"handled": {"echo": 6}, "dead": {"echo": 1}, "expired": {"echo": 1}}, 0.75),
        ({"dead": {"echo": 1}}, 0.0),
    ],
)
def test_success_is_the_share_of_ended_messages_that_were_handled(
    counts: dict[str, dict[str, int]], ratio: float | None
) -> None:
    assert added(Measurements("worker-1", counts)).summary(NOW_S).overall.success == ratio


# Rates and processes.


def test_rates_are_means_over_whole_seconds_and_leave_out_the_one_that_runs() -> None:
    collector = Collector()
    for second in range(100):
        collector.add(handled(echo=50), second + 0.5)
    collector.add(handled(echo=9999), 100.2)
    assert collector.rate(10, 100.9) == 50
    assert collector.rate(60, 100.9, "echo") == 50
    assert collector.rate(60, 100.9, "review") == 0


def test_rates_fall_to_zero_when_nothing_is_reported_any_more() -> None:
    collector = Collector()
    collector.add(handled(echo=60), 10.5)
    assert [collector.rate(10, at) for at in (11.0, 20.9, 21.0)] == [6, 6, 0]
    assert [collector.rate(60, at) for at in (70.9, 71.0)] == [1, 0]


def test_a_backlog_counts_in_the_totals_and_not_in_the_rates_of_now() -> None:
    collector = Collector()
    collector.add(handled(echo=1000), 500.5, age_s=300.0)
    collector.add(handled(echo=10), 500.5, age_s=3.0)
    assert (collector.totals.count("handled"), collector.rate(10, 500.9)) == (1010, 1.0)


def test_a_clock_ahead_of_ours_counts_as_now() -> None:
    collector = Collector()
    collector.add(handled(echo=10), 500.5, age_s=-3600.0)
    assert collector.rate(10, 501.5) == 1.0
    assert collector.summary(500.6).processes["worker-1"].age_s == pytest.approx(0.1)


def test_only_the_windows_of_the_last_minute_are_kept() -> None:
    collector = Collector()
    for second in range(10_000):
        collector.add(handled(echo=1), second + 0.5)
    assert len(collector._windows) <= module.WINDOWS + 1


def test_processes_are_shown_with_their_age_and_forgotten_when_long_silent() -> None:
    collector = Collector()
    collector.add(Measurements("worker-1", gauges={"agents": 5}), 100.0)
    collector.add(Measurements("worker-2"), 155.0)
    assert collector.summary(158.0).processes["worker-1"].age_s == 58.0
    assert list(collector.live(158.0)) == ["worker-2"]
    assert list(collector.summary(161.0).processes) == ["worker-2"]


def test_an_older_report_does_not_make_a_process_look_younger_or_older() -> None:
    collector = Collector()
    collector.add(Measurements("worker-1", gauges={"agents": 5}), 100.0)
    collector.add(Measurements("worker-1", gauges={"agents": 4}), 101.0, age_s=50.0)
    assert collector.live(101.0) == {"worker-1": {"agents": 5}}


def test_processes_are_bounded_and_the_one_silent_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PROCESSES", 2)
    collector = Collector()
    for number in range(4):
        collector.add(Measurements(f"worker-{number}"), 100.0 + number)
    assert sorted(collector.live(104.0)) == ["worker-2", "worker-3"]


def test_types_beyond_the_limit_count_together_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TYPES", 2)
    collector = added(
        handled(a=1, b=2), handled(c=3, d=4, a=5), of_latencies([7], type="e"), of_latencies([7], type="f")
    )
    assert collector.totals.counts["handled"] == {"a": 6, "b": 2, OTHER: 7}
    assert collector.totals.latencies["start"] == {OTHER: {7: 2}}
    assert collector.totals.sums["start"] == {OTHER: 14}


# What is refused.


def message(body: Any, name: str = MEASURE) -> Message:
    return Message(TO_METRICS, name, Raw(encode(body)), 0)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"process": "worker-1", "counts": {"handled": {"echo": -1}}}, "'handled' decreases"),
        ({"process": "worker-1", "latencies": {"start": {"echo": {3: -1}}}}, "'start' decreases"),
        ({"process": "worker-1", "latencies": {"start": {"e": {3: 1}}}, "sums": {"start": {"e": -1}}}, "decreases"),
        ({"process": "worker-1", "latencies": {"start": {"echo": {BUCKETS: 1}}}}, "bucket"),
        ({"process": "worker-1", "latencies": {"start": {"echo": {-1: 1}}}}, "bucket"),
        ({"process": "worker-1", "counts": {"handled": {"a b\x1b": 1}}}, "no agent type"),
        ({"process": "worker-1", "counts": {"handled": {"x" * 129: 1}}}, "no agent type"),
        ({"process": ""}, "no process"),
        ({"process": 5}, "process"),
        ({}, "process"),
        ([1, 2], "object"),
    ],
)
def test_what_cannot_be_true_is_refused_by_name(body: Any, text: str) -> None:
    with pytest.raises(WireError, match=text):
        read_report(message(body))


def test_messages_of_another_name_are_refused() -> None:
    with pytest.raises(WireError, match="not 'review'"):
        read_report(message({"process": "worker-1"}, "review"))


def test_names_of_a_newer_release_are_left_out_and_counted() -> None:
    body = {
        "process": "worker-1",
        "counts": {"handled": {"echo": 1}, "dreamt": {"echo": 1}},
        "latencies": {"dream": {"echo": {1: 1}}},
        "sums": {"dream": {"echo": 1}},
        "gauges": {"agents": 5, "dreams": 6},
    }
    assert read_report(message(body)) == Measurements(
        "worker-1", {"handled": {"echo": 1}, "unknown_names": {"": 2}}, gauges={"agents": 5}
    )


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_harmless(body: bytes) -> None:
    with contextlib.suppress(WireError):
        read_report(Message(TO_METRICS, MEASURE, Raw(body), 0))


# Prometheus.


def scraped(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    monkeypatch.setattr("swell_metrics.exposition.time.monotonic", lambda: NOW_S)
    registry = CollectorRegistry()
    registry.register(Exposition(lambda: collector))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        one.name + "".join(f",{value}" for _, value in sorted(one.labels.items())): one.value
        for family in families
        for one in family.samples
    }


def test_counters_latencies_and_gauges_are_exposed_in_base_units(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = added(
        handled(echo=3),
        of_latencies([100, 2000, 3_000_000]),
        Measurements("worker-1", gauges={"agents": 5}),
        Measurements("worker-2", gauges={"agents": 7}),
        Measurements("manager-1", gauges={"memory_bytes": 1e6}),
    )
    samples = scraped(collector, monkeypatch)
    assert samples["swell_messages_handled_total,echo"] == 3
    assert samples["swell_message_start_seconds_count,echo"] == 3
    assert samples["swell_message_start_seconds_sum,echo"] == pytest.approx(3.0021)
    assert samples["swell_message_start_seconds_bucket,0.002048,echo"] == 2
    assert samples["swell_message_start_seconds_bucket,+Inf,echo"] == 3
    assert samples["swell_fleet_agents,worker"] == 12
    assert samples["swell_fleet_memory_bytes,manager"] == 1e6
    assert samples["swell_fleet_processes,worker"] == 2


def test_an_empty_collector_exposes_no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scraped(Collector(), monkeypatch) == {}


def test_every_instrument_of_the_table_is_exposed() -> None:
    names = {family.name for family in Exposition(Collector).collect()}
    assert {row.metric.removesuffix("_total") for row in COUNTERS.values()} <= names
    assert {row.metric for row in LATENCIES.values()} <= names
    assert {row.metric.replace("swell_", "swell_fleet_", 1) for row in GAUGES.values()} <= names


@given(st.lists(st.integers(0, 1 << 31), max_size=200))
def test_the_counts_below_each_exposed_bound_are_exact(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    below: Callable[[int], int] = lambda bound: sum(value < bound for value in values)  # noqa: E731
    counted = cumulative(histogram.sparse())
    assert [count for _, count in counted[:-1]] == [below(bound) for bound in BOUNDS_US]
    assert counted[-1] == ("+Inf", len(values))
