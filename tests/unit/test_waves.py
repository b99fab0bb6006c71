"""Waves decide which agents begin when: no clock and no I/O, so each case is a story of beginnings and ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swell.wire import PlanRequest
from swell_manager.waves import MIN_SAMPLE, Checkpoint, Waves


def waves(count: int, since: Checkpoint | None = None, **settings: Any) -> Waves:
    defaults: dict[str, Any] = {"wave_size": 10, "max_in_flight": 1000, "abort_ratio": 1.0}
    return Waves(PlanRequest("p", "echo", count, **defaults | settings), since)


def end_all(plan: Waves, indexes: Iterable[int], ready: bool = True) -> list[bool]:
    return [plan.end(index, ready) for index in indexes]


def test_sliding_begins_as_many_as_may_be_in_flight_over_the_borders_of_waves() -> None:
    plan = waves(100, max_in_flight=25)
    assert plan.begin(0.0) == range(25)
    assert plan.wave == 3
    assert not plan.begin(0.0)
    end_all(plan, (3, 20))
    assert plan.begin(0.0) == range(25, 27)


def test_barrier_holds_the_next_wave_until_every_agent_of_the_wave_has_ended() -> None:
    plan = waves(25, pacing="barrier")
    assert plan.begin(0.0) == range(10)
    end_all(plan, range(9))
    assert not plan.begin(0.0)
    assert plan.end(9, ready=False)
    assert plan.begin(0.0) == range(10, 20)
    end_all(plan, range(10, 20))
    assert plan.begin(0.0) == range(20, 25)


def test_barrier_refills_within_a_wave_up_to_the_cap() -> None:
    plan = waves(20, pacing="barrier", max_in_flight=4)
    assert plan.begin(0.0) == range(4)
    plan.end(0, ready=True)
    assert plan.begin(0.0) == range(4, 5)


def test_barrier_counts_its_pause_from_the_end_of_the_wave() -> None:
    plan = waves(20, pacing="barrier", pause_s=5.0)
    plan.begin(0.0)
    assert not plan.begin(50.0)
    assert plan.wake_at is None
    end_all(plan, range(10))
    assert not plan.begin(100.0)
    assert plan.wake_at == 105.0
    assert not plan.begin(104.9)
    assert plan.begin(105.0) == range(10, 20)
    assert plan.wake_at is None


def test_sliding_counts_its_pause_from_the_beginning_of_the_last_agent_of_the_wave() -> None:
    plan = waves(30, pause_s=5.0)
    assert plan.begin(0.0) == range(10)
    assert not plan.begin(0.0)
    assert plan.wake_at == 5.0
    assert plan.begin(5.0) == range(10, 20)
    assert not plan.begin(5.0)
    assert plan.wake_at == 10.0


def test_no_pause_is_waited_behind_the_last_wave() -> None:
    plan = waves(10, pause_s=5.0)
    plan.begin(0.0)
    end_all(plan, range(10))
    assert not plan.begin(0.0)
    assert plan.over
    assert plan.wake_at is None


def test_end_tells_when_a_wave_ended_whatever_the_order() -> None:
    plan = waves(15)
    plan.begin(0.0)
    assert end_all(plan, (14, 13, 12, 11)) == [False] * 4
    assert end_all(plan, (10,)) == [True]
    assert end_all(plan, reversed(range(10))) == [False] * 9 + [True]
    assert plan.over


def test_checkpoint_counts_only_leading_waves_that_ended() -> None:
    plan = waves(30)
    plan.begin(0.0)
    end_all(plan, range(10, 20))
    assert plan.checkpoint == Checkpoint(0, 0, 0)
    end_all(plan, range(9))
    plan.end(9, ready=False)
    assert plan.checkpoint == Checkpoint(2, 19, 1)
    end_all(plan, range(20, 30))
    assert plan.checkpoint == Checkpoint(3, 29, 1)


def test_a_plan_resumes_behind_its_checkpoint() -> None:
    plan = waves(35, since=Checkpoint(2, 18, 2))
    assert (plan.begun, plan.ready, plan.failed, plan.in_flight) == (20, 18, 2, 0)
    assert plan.begin(0.0) == range(20, 35)
    end_all(plan, range(20, 35))
    assert plan.over
    assert plan.checkpoint == Checkpoint(4, 33, 2)


def test_a_plan_whose_last_wave_ended_is_over_when_resumed() -> None:
    plan = waves(15, since=Checkpoint(2, 15, 0))
    assert plan.over
    assert not plan.begin(0.0)


def test_resuming_does_not_change_the_checkpoint_it_was_given() -> None:
    since = Checkpoint(1, 10, 0)
    plan = waves(20, since=since)
    plan.begin(0.0)
    end_all(plan, range(10, 20))
    assert since == Checkpoint(1, 10, 0)


def test_the_ratio_of_the_whole_plan_aborts_as_soon_as_it_is_certain() -> None:
    plan = waves(100, wave_size=100, abort_ratio=0.1)
    plan.begin(0.0)
    end_all(plan, range(10), ready=False)
    assert not plan.aborting
    plan.end(10, ready=False)
    assert plan.aborting


@pytest.mark.parametrize(("count", "failed", "ratio"), [(100, 29, 0.29), (10, 3, 0.3), (1000, 100, 0.1), (7, 7, 1.0)])
def test_exactly_the_ratio_does_not_abort(count: int, failed: int, ratio: float) -> None:
    plan = waves(count, wave_size=count, abort_ratio=ratio)
    plan.begin(0.0)
    end_all(plan, range(failed), ready=False)
    end_all(plan, range(failed, count))
    assert not plan.aborting
    assert plan.over


def test_a_ratio_of_zero_aborts_at_the_first_failure() -> None:
    plan = waves(1000, abort_ratio=0.0)
    plan.begin(0.0)
    plan.end(500, ready=False)
    assert plan.aborting


def test_a_wave_that_fails_stops_the_waves_behind_it() -> None:
    plan = waves(1000, wave_size=20, pacing="barrier", abort_ratio=0.1)
    plan.begin(0.0)
    end_all(plan, range(3), ready=False)
    end_all(plan, range(3, 20))
    assert plan.aborting
    assert not plan.begin(0.0)


def test_too_few_agents_say_nothing_of_the_others() -> None:
    plan = waves(1000, wave_size=1, abort_ratio=0.1)
    plan.begin(0.0)
    plan.end(0, ready=False)
    assert not plan.aborting
    end_all(plan, range(1, MIN_SAMPLE - 1), ready=False)
    assert not plan.aborting
    plan.end(MIN_SAMPLE - 1, ready=False)
    assert plan.aborting


def test_a_wave_border_is_judged_by_all_that_ended_not_by_one_wave() -> None:
    plan = waves(1000, wave_size=100, abort_ratio=0.1)
    plan.begin(0.0)
    end_all(plan, range(100))
    end_all(plan, range(100, 115), ready=False)
    end_all(plan, range(115, 200))
    assert not plan.aborting  # 15 of 200


def test_wave_counts_those_begun_the_last_one_may_be_smaller() -> None:
    plan = waves(25, pacing="barrier")
    assert (plan.wave, plan.waves) == (0, 3)
    plan.begin(0.0)
    assert plan.wave == 1
    end_all(plan, range(10))
    plan.begin(0.0)
    end_all(plan, range(10, 20))
    plan.begin(0.0)
    assert plan.wave == 3


@settings(deadline=None)
@given(
    count=st.integers(1, 120),
    wave_size=st.integers(1, 40),
    max_in_flight=st.integers(1, 50),
    pacing=st.sampled_from(["barrier", "sliding"]),
    pause_s=st.sampled_from([0.0, 3.0]),
    data=st.data(),
)
def test_every_agent_begins_once_within_the_limits_whatever_the_order_of_ends(
    count: int, wave_size: int, max_in_flight: int, pacing: Any, pause_s: float, data: st.DataObject
) -> None:
    plan = waves(count, wave_size=wave_size, max_in_flight=max_in_flight, pacing=pacing, pause_s=pause_s)
    now = 0.0
    running: list[int] = []
    begun: list[int] = []
    while not plan.over:
        for index in plan.begin(now):
            if pacing == "barrier":
                assert all(other // wave_size == index // wave_size for other in running)
            begun.append(index)
            running.append(index)
        assert len(running) == plan.in_flight <= max_in_flight
        before = plan.checkpoint.waves
        if running:
            plan.end(running.pop(data.draw(st.integers(0, len(running) - 1))), data.draw(st.booleans()))
        else:
            assert plan.wake_at is not None
            assert plan.wake_at > now
            now = plan.wake_at
        assert plan.checkpoint.waves >= before
    assert begun == list(range(count))
    assert plan.checkpoint == Checkpoint(plan.waves, plan.ready, plan.failed)


@settings(deadline=None)
@given(
    count=st.integers(1, 100),
    wave_size=st.integers(1, 30),
    stop_after=st.integers(0, 100),
    failing=st.sets(st.integers(0, 99)),
    data=st.data(),
)
def test_a_plan_resumed_anywhere_ends_with_the_counts_of_one_that_was_not(
    count: int, wave_size: int, stop_after: int, failing: set[int], data: st.DataObject
) -> None:
    first = waves(count, wave_size=wave_size, max_in_flight=17)
    running = list(first.begin(0.0))
    for _ in range(min(stop_after, count - 1)):
        index = running.pop(data.draw(st.integers(0, len(running) - 1)))
        first.end(index, index not in failing)
        running += first.begin(0.0)
    second = waves(count, wave_size=wave_size, max_in_flight=17, since=first.checkpoint)
    while not second.over:
        end = list(second.begin(0.0))
        for index in end:
            second.end(index, index not in failing)
    expected = len(failing & set(range(count)))
    assert (second.ready, second.failed) == (count - expected, expected)
