"""Waits between tries: they grow, are capped, and differ from process to process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swell.backoff import BUSY, RECONNECT, RETRY, Backoff


@given(st.integers(-5, 10_000), st.sampled_from([BUSY, RECONNECT, RETRY, Backoff(0.1, 0.1)]))
def test_a_wait_lies_between_half_and_all_of_a_doubling_capped_step(failures: int, backoff: Backoff) -> None:
    step = min(backoff.most_s, backoff.first_s * 2 ** min(max(failures - 1, 0), 30))
    assert step / 2 <= backoff.wait_s(failures) <= step


def test_waits_are_drawn_anew_each_time() -> None:
    assert len({RETRY.wait_s(3) for _ in range(20)}) > 1


def test_a_backoff_of_nothing_does_not_wait() -> None:
    assert Backoff(0.0, 0.0).wait_s(7) == 0.0
