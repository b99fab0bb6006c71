"""`swell validate`: verdicts and reports, which must be able to say no."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from swell.bench.result import Delivery
from swell.validate.report import as_csv, as_document, as_markdown, lines, verdict
from swell.validate.running import Measured
from swell.validate.scenarios import LONG, SCENARIOS, Scenario, Targets

VALUES = {
    "spawn_p95_ms": 5.0,
    "message_p95_ms": 2.0,
    "task_p95_ms": 3.0,
    "operations_per_s": 200_000.0,
    "success": 1.0,
    "kib_per_agent": 4.0,
}
ALL = Targets(10, 10, 10, 100_000, 0.999, 8)
SCENARIO = Scenario("baseline", 10, 20, 5, targets=ALL)


def measured(delivery: Delivery | None = None, **values: float) -> Measured:
    return Measured("baseline", VALUES | values, {}, delivery or Delivery(25, 25, 25))


def test_all_targets_met_is_a_pass() -> None:
    done = [(SCENARIO, measured())]
    assert verdict(done)
    assert [line.met for line in lines(*done[0])] == [True] * 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spawn_p95_ms", 10.1),
        ("message_p95_ms", 11.0),
        ("task_p95_ms", 10.5),
        ("operations_per_s", 99_999.0),
        ("success", 0.998),
        ("kib_per_agent", 8.1),
    ],
)
def test_each_target_can_be_missed(name: str, value: float) -> None:
    done = [(SCENARIO, measured(**{name: value}))]
    assert not verdict(done)
    assert [line.met for line in lines(*done[0])].count(False) == 1
    assert "**missed**" in as_markdown(done, quick=False)


def test_a_lost_message_fails_whatever_the_figures_say() -> None:
    assert not verdict([(SCENARIO, measured(Delivery(25, 24, 25)))])
    assert not verdict([(SCENARIO, measured(Delivery(25, 25, 25, reordered=1)))])


def test_what_has_no_target_is_not_held_against_one() -> None:
    only = Scenario("task-heavy", targets=Targets(task_p95_ms=10, success=None))
    assert [line.what for line in lines(only, measured(message_p95_ms=1e9))] == ["P95 of a task, ms"]


def test_the_reports_say_the_same_in_each_form() -> None:
    done = [(SCENARIO, measured(success=0.5))]
    document = as_document(done, quick=True)
    assert (document["passed"], document["quick"]) == (False, True)
    rows = list(csv.DictReader(io.StringIO(as_csv(done))))
    assert [(row["what"], row["met"]) for row in rows if row["met"] == "False"] == [("success", "False")]
    assert "it validates nothing" in as_markdown(done, quick=True)
    assert "it validates nothing" not in as_markdown(done, quick=False)


def test_the_scenarios_have_the_sizes_that_were_named() -> None:
    sizes = {name: (one.agents, one.messages, one.tasks) for name, one in SCENARIOS.items()}
    assert sizes["baseline"] == (100, 500, 200)
    assert sizes["high-concurrency"] == (1_000, 5_000, 2_000)
    assert sizes["peak"] == (5_000, 25_000, 10_000)
    assert sizes["ultra"] == (10_000, 50_000, 20_000)
    assert sizes["communication"] == (500, 50_000, 1_000)
    assert sizes["task-heavy"] == (1_000, 2_000, 25_000)
    assert (SCENARIOS["sustained"].agents, SCENARIOS["sustained"].seconds) == (2_000, 60)
    assert (SCENARIOS["rate-10k"].rate, SCENARIOS["rate-10k"].seconds) == (10_000, 60)
    assert (SCENARIOS["five-minutes"].agents, SCENARIOS["five-minutes"].seconds) == (100, 300)
    assert SCENARIOS["parallel-spawns"].parallel == 100
    assert set(SCENARIOS) >= LONG


def test_a_quick_scenario_is_smaller_and_none_is_empty() -> None:
    for one in SCENARIOS.values():
        quick = one.quick()
        assert quick.seconds <= 10
        assert (quick.agents > 0, quick.tasks > 0) == (one.agents > 0, one.tasks > 0)


def test_every_scenario_is_in_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "validate.md").read_text()
    assert re.findall(r"^\| `([\w-]+)` \|", text, re.M) == list(SCENARIOS)
    for one in SCENARIOS.values():
        assert one.asked_by in text
