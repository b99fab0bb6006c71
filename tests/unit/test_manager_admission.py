"""Which plans the manager takes, and what keys it gives."""

from __future__ import annotations

from typing import Any

import pytest

from swell.codec import raw
from swell.wire import PlanRequest
from swell_manager.admission import MAX_AGENTS, MAX_ARGS_BYTES, Refusal, check, fill, same_plan


def request(**fields: Any) -> PlanRequest:
    defaults: dict[str, Any] = {"id": "plan-1", "type": "echo", "count": 3}
    return PlanRequest(**defaults | fields)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("id", {"id": ""}),
        ("id", {"id": "a/b"}),
        ("type", {"type": "no spaces"}),
        ("type", {"type": "x" * 129}),
        ("count", {"count": 0}),
        ("count", {"count": -1}),
        ("count", {"count": MAX_AGENTS + 1}),
        ("count", {"count": 3, "keys": ["a", "b"]}),
        ("keys[1]", {"count": 0, "keys": ["a", "a/b"]}),
        ("keys[2]", {"count": 0, "keys": ["a", "b", "a"]}),
        ("keys[0]", {"count": 0, "keys": [""]}),
        ("keys", {"count": 0, "keys": ["a b"] * (MAX_AGENTS + 1)}),
        ("args", {"args": raw(b"x" * MAX_ARGS_BYTES)}),
        ("wave_size", {"wave_size": 0}),
        ("max_in_flight", {"max_in_flight": 0}),
        ("pause_s", {"pause_s": -0.1}),
        ("pause_s", {"pause_s": float("inf")}),
        ("abort_ratio", {"abort_ratio": 1.01}),
        ("abort_ratio", {"abort_ratio": float("nan")}),
        ("timeout_s", {"timeout_s": 0.0}),
        ("timeout_s", {"timeout_s": 4000.0}),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused_with_the_field_named(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        check(request(**fields))
    assert refused.value.field == field
    assert str(refused.value).startswith(field)


@pytest.mark.parametrize(
    "fields", [{}, {"count": 0, "keys": ["a", "B.1"]}, {"count": 2, "keys": ["a", "b"]}, {"count": MAX_AGENTS}]
)
def test_a_plan_within_its_bounds_is_taken(fields: dict[str, Any]) -> None:
    check(request(**fields))


def test_keys_continue_the_count_of_the_type() -> None:
    filled, next_key = fill(request(count=3), 9998)
    assert filled.keys == ["9998", "9999", "10000"]
    assert next_key == 10001
    assert filled.count == 3


def test_given_keys_are_kept_and_counted() -> None:
    filled, next_key = fill(request(count=0, keys=["a", "b"]), 7)
    assert (filled.keys, filled.count, next_key) == (["a", "b"], 2, 7)


def test_counting_never_meets_a_given_key_that_reads_as_a_number() -> None:
    _, next_key = fill(request(count=0, keys=["0005", "0011", "x"]), 7)
    assert next_key == 12
    assert fill(request(count=0, keys=["0005"]), 7)[1] == 7


@pytest.mark.parametrize("key", ["20240101", "12", "00012", "٣٤٥٦"])
def test_a_given_key_that_counting_would_not_give_leaves_the_count_alone(key: str) -> None:
    assert fill(request(count=0, keys=[key]), 7)[1] == 7


def test_the_same_id_names_the_same_plan_only() -> None:
    filled, _ = fill(request(count=3), 0)
    assert same_plan(filled, request(count=3))
    assert not same_plan(filled, request(count=4))
    assert not same_plan(filled, request(type="other"))
    assert same_plan(filled, request(count=0, keys=["a", "b", "c"]))
    assert same_plan(filled, request(type="", count=0))
