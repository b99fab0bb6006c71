"""The arithmetic and the table of the comparison with other systems."""

from __future__ import annotations

import pytest

from benchmarks.peers.__main__ import PEERS, SWELL, groups
from benchmarks.peers.contract import PAYLOAD, PLAIN, Facts, Meter, stamped
from benchmarks.peers.environments import REQUIREMENTS
from benchmarks.peers.figures import AtRate, Turn, at_rate, quantile, summarise
from benchmarks.peers.report import Row, Setting, as_json, cells, heads, markdown, plain_table

FACTS = Facts("Some | queue", "some", "at least once", "redelivered", "none", "polled", {"prefetch": "1,000"})
SETTING = Setting("2026-01-02", "a machine", "3.11", "a server", "in memory", 3, 60.0, "make peers")


def turn(throughput: float, *, handled: int = 100, left: int = 0, p95_ms: float = 2.0) -> Turn:
    rate = AtRate(500, 500.0, 1000, 1000, 1.0, p95_ms, 3.0)
    return Turn(100, handled, left, throughput, [rate], 70.0, 4.0, 5.0)


def test_a_quantile_is_the_smallest_value_that_covers_its_part() -> None:
    values = list(range(100, 0, -1))
    assert [quantile(values, q) for q in (0.01, 0.5, 0.95, 1.0)] == [1, 50, 95, 100]
    assert quantile([7], 0.5) == 7
    assert quantile([], 0.95) == 0


def test_a_message_tells_when_it_was_due_or_that_nobody_asks() -> None:
    meter = Meter()
    assert len(PLAIN) == len(stamped(1)) == len(stamped(10**19)) == PAYLOAD
    meter.take(PLAIN)
    assert meter.account()["late_us"] == []
    meter.take(stamped(0))
    seen = meter.account()
    assert seen["handled"] == 2
    assert seen["late_us"] == [seen["last_ns"] // 1000]
    assert meter.account()["late_us"] == []


def test_a_rate_is_kept_when_almost_as_many_are_handled_in_the_time() -> None:
    ended = 2_000_000_000
    assert at_rate(500, 1000, 1000, 0, ended, [1000] * 1000).kept
    assert at_rate(500, 1000, 1000, 0, int(ended * 1.04), [1000] * 1000).kept
    assert not at_rate(500, 1000, 1000, 0, int(ended * 1.1), [1000] * 1000).kept
    lost = at_rate(500, 1000, 1000, 0, ended, [1000] * 999)
    assert not lost.kept


def test_a_last_message_that_is_quick_does_not_raise_the_rate() -> None:
    assert at_rate(500, 1000, 1000, 0, 1_998_000_000, [1] * 1000).achieved == 500


def test_a_summary_takes_the_median_and_compares_each_turn_with_the_one_beside_it() -> None:
    turns = [turn(10), turn(40, p95_ms=9), turn(20, p95_ms=4)]
    beside = [turn(100), turn(4000), turn(100)]
    summary = summarise(turns, beside)
    assert (summary.turns, summary.throughput, summary.ratio) == (3, 20, 10)
    assert summary.rates[0].p95_ms == 4
    assert summary.verified


@pytest.mark.parametrize("bad", [turn(10, handled=99), turn(10, handled=101), turn(10, left=1)])
def test_a_loss_a_repetition_or_something_left_in_one_turn_shows(bad: Turn) -> None:
    summary = summarise([turn(10), bad], [turn(10), turn(10)])
    assert not summary.verified
    assert "not all handled" in " ".join(cells(Row("some", FACTS, "1", summary), [500]))


def test_turns_without_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        summarise([turn(1)], [])
    with pytest.raises(ValueError, match="nothing"):
        summarise([], [])


def test_swell_has_its_turn_beside_every_other() -> None:
    for count in (1, 2, 5, 12):
        names = [str(n) for n in range(count)]
        order = list(groups(names))
        assert [name for group in order for name in group if name != SWELL] == names
        assert all(group[1] == SWELL and len(group) <= 3 for group in order)


def test_the_tables_have_a_cell_for_every_head() -> None:
    fine = Row("some", FACTS, "1.0", summarise([turn(10)], [turn(25)]))
    slow = AtRate(500, 100.0, 1000, 1000, 1.0, 2.0, 3.0)
    behind = Row("slow", FACTS, "2.0", summarise([Turn(9, 9, 0, 1.0, [slow])], [turn(25)]))
    broken = Row("broken", FACTS, "", None, "it | fell over")
    rows = [fine, behind, broken]
    assert {len(cells(row, [500])) for row in rows} == {len(heads([500]))}
    assert cells(fine, [500])[2:] == ["10", "2.5", "1.0 / 2.0 / 3.0", "70 / 5.0"]
    lost = Row("lost", FACTS, "3.0", summarise([Turn(9, 9, 0, 1.0, [AtRate(500, 499.0, 9, 8, 1, 2, 3)])], [turn(25)]))
    assert cells(lost, [500])[4] == "1.0 / 2.0 / 3.0 (handled 8 of 9)"
    assert cells(behind, [500])[4:] == ["only 100/s, growing: 1.0 / 2.0 / 3.0", "-"]
    plain = plain_table(heads([500]), [cells(row, [500]) for row in rows])
    assert len(plain.splitlines()) == 5
    report = markdown(rows, SETTING, [500])
    assert "Some \\| queue" in report
    assert "it | fell over" in report
    assert "`prefetch`: 1,000" in report
    data = as_json(rows, SETTING)
    assert data["systems"][0]["figures"]["ratio"] == 2.5
    assert data["systems"][2]["figures"] is None


def test_every_system_has_its_versions_pinned() -> None:
    for environment in PEERS.values():
        lines = (REQUIREMENTS / f"{environment}.txt").read_text().splitlines()
        assert lines
        assert all("==" in line.partition(";")[0] and "://" not in line for line in lines), environment
