"""Histograms are cheap, exact to merge and off by a sixteenth at most; recorders lose nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import swell
from swell.codec import decode, encode
from swell.histogram import BUCKETS, SUB, Histogram, bucket_of, upper_us
from swell.instruments import COUNTERS, GAUGES, LATENCIES, Recorder, resident_bytes
from swell.wire import Measurements

TOP_US = 1 << 32
LATENCY = st.one_of(st.integers(0, 200), st.integers(0, 1 << 20), st.integers(0, TOP_US - 1))


def of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


# Buckets.


@given(LATENCY)
def test_a_bucket_ends_at_most_a_sixteenth_above_what_falls_into_it(us: int) -> None:
    upper = upper_us(bucket_of(us))
    assert us <= upper <= us + us / SUB


def test_buckets_follow_each_other_without_gap_or_overlap() -> None:
    for bucket in range(BUCKETS - 2):
        assert bucket_of(upper_us(bucket)) == bucket
        assert bucket_of(upper_us(bucket) + 1) == bucket + 1


@given(LATENCY)
def test_the_tables_agree_with_the_formula(us: int) -> None:
    histogram = of([us])
    assert histogram.sparse() == {bucket_of(us): 1}
    assert histogram.sum_us == us


@pytest.mark.parametrize("us", [65_535, 65_536, 67_108_863, 67_108_864, TOP_US - 1, TOP_US, 10**15])
def test_where_one_table_ends_the_next_goes_on(us: int) -> None:
    assert of([us]).sparse() == {bucket_of(us): 1}


def test_more_than_an_hour_falls_into_the_last_bucket() -> None:
    assert bucket_of(2 * 3600 * 1_000_000) == BUCKETS - 1
    assert bucket_of(3600 * 1_000_000) < BUCKETS - 1


def test_a_latency_below_zero_counts_as_zero() -> None:
    histogram = of([-5, -(10**12)])
    assert (histogram.sparse(), histogram.sum_us) == ({0: 2}, 0)


# Quantiles and merging.


@given(st.lists(LATENCY, min_size=1, max_size=300), st.floats(0, 1))
def test_a_quantile_is_never_too_low_and_at_most_a_sixteenth_too_high(values: list[int], q: float) -> None:
    import math

    exact = sorted(values)[max(1, min(len(values), math.ceil(q * len(values)))) - 1]
    assert exact <= of(values).quantile_us(q) <= exact + exact / SUB


def test_without_a_latency_quantiles_and_mean_are_zero() -> None:
    assert (Histogram().quantile_us(0.95), Histogram().mean_us, Histogram().count) == (0.0, 0.0, 0)


@given(st.lists(LATENCY, max_size=200), st.lists(LATENCY, max_size=200))
def test_merging_is_exactly_as_if_one_had_recorded_all(left: list[int], right: list[int]) -> None:
    merged, other = of(left), of(right)
    merged.merge(other.sparse(), other.sum_us)
    assert (merged.counts, merged.sum_us) == (of(left + right).counts, sum(left + right))


def test_several_at_once_are_the_same_as_one_after_another() -> None:
    many, single = Histogram(), of([70_000] * 5 + [3] * 2)
    many.record(70_000, 5)
    many.record(3, 2)
    assert (many.counts, many.sum_us) == (single.counts, single.sum_us)


def test_buckets_that_do_not_exist_are_passed_over() -> None:
    histogram = Histogram()
    histogram.merge({-1: 1, BUCKETS: 1, 5: 1}, 5)
    assert histogram.sparse() == {5: 1}


# Recorders.


def full_recorder() -> Recorder:
    recorder = Recorder("worker-1")
    recorder.count("handled", "echo", 3)
    recorder.count("takeovers")
    recorder.latency("start", "echo").record(120, 3)
    return recorder


def test_nothing_measured_is_nothing_to_tell() -> None:
    recorder = Recorder("worker-1")
    recorder.latency("start", "echo")
    recorder.count("handled", "echo", 0)
    assert recorder.take() is None


def test_taking_gives_the_increase_since_the_last_time() -> None:
    recorder = full_recorder()
    first = recorder.take()
    recorder.count("handled", "echo")
    assert first == Measurements(
        "worker-1",
        {"handled": {"echo": 3}, "takeovers": {"": 1}},
        {"start": {"echo": {bucket_of(120): 3}}},
        {"start": {"echo": 360}},
    )
    assert recorder.take() == Measurements("worker-1", {"handled": {"echo": 1}})


def test_a_histogram_that_somebody_keeps_goes_on_counting_after_it_was_taken() -> None:
    recorder = full_recorder()
    kept = recorder.latency("start", "echo")
    recorder.take()
    kept.record(7)
    taken = recorder.take()
    assert taken is not None
    assert taken.latencies == {"start": {"echo": {7: 1}}}


def test_what_could_not_be_told_is_told_with_what_came_since() -> None:
    recorder = full_recorder()
    unsent = recorder.take()
    assert unsent is not None
    recorder.count("handled", "echo")
    recorder.latency("start", "echo").record(120)
    recorder.restore(unsent)
    taken = recorder.take()
    assert taken is not None
    assert taken.counts == {"handled": {"echo": 4}, "takeovers": {"": 1}}
    assert taken.latencies == {"start": {"echo": {bucket_of(120): 4}}}
    assert taken.sums == {"start": {"echo": 480}}


def test_hours_of_silence_of_the_metrics_service_do_not_make_the_recorder_grow() -> None:
    recorder = full_recorder()
    size = len(encode(recorder_taken(recorder)))
    for _ in range(1000):
        recorder.count("handled", "echo", 3)
        recorder.count("takeovers")
        recorder.latency("start", "echo").record(120, 3)
        recorder.restore(recorder_taken(recorder))
    assert len(encode(recorder_taken(recorder))) < size + 32


def recorder_taken(recorder: Recorder) -> Measurements:
    taken = recorder.take()
    assert taken is not None
    return taken


def test_gauges_are_read_when_they_are_told() -> None:
    recorder = Recorder("worker-1")
    agents: list[str] = []
    recorder.watch("agents", lambda: len(agents))
    recorder.gauge("shards", 4)
    agents.append("echo/1")
    assert recorder_taken(recorder).gauges == {"agents": 1, "shards": 4}


def test_measurements_survive_the_wire() -> None:
    taken = recorder_taken(full_recorder())
    assert decode(encode(taken), Measurements) == taken


def test_a_process_knows_its_memory() -> None:
    assert 1 << 20 < resident_bytes() < 1 << 40


# The table.


def test_every_name_that_the_sources_measure_is_in_the_table() -> None:
    root = Path(swell.__file__).parents[2]
    sources = [path for part in ("shared", "services") for path in (root / part).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    counted = set(re.findall(r'recorder\.count\(\s*"(\w+)"|counters\.count\(\s*"(\w+)"', text))
    assert {a or b for a, b in counted} <= COUNTERS.keys()
    assert set(re.findall(r'recorder\.latency\(\s*"(\w+)"', text)) <= LATENCIES.keys()
    assert set(re.findall(r'recorder\.(?:gauge|watch)\(\s*"(\w+)"', text)) <= GAUGES.keys()


def test_every_instrument_has_a_name_of_its_own_in_prometheus_form_and_a_meaning() -> None:
    rows = [*COUNTERS.values(), *LATENCIES.values(), *GAUGES.values()]
    assert len({row.metric for row in rows}) == len(rows)
    assert all(re.fullmatch(r"swell_[a-z]+(_[a-z]+)*", row.metric) and row.unit and row.meaning for row in rows)
    assert all(row.metric.endswith("_total") for row in COUNTERS.values())
