"""The chaos tests' oracle finds each kind of violation, and nothing where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.account import Account, Numbered, Recovery, Sent, Verdict, judge
from tests.chaos.report import Rows, main

PAIR = ("s", "notary/1")
#: process, life, sequence number, began, ended
Line = tuple[int, int, int, int, int]


def sent(count: int, unknown: set[int] | None = None) -> Sent:
    account = Sent()
    numbered = [account.number(*PAIR) for _ in range(count)]
    account.acknowledge([one for one in numbered if one.seq not in (unknown or set())])
    return account


def handled(*lines: Line) -> Account:
    account = Account()
    for process, life, seq, began, ended in lines:
        account.add(*PAIR, process, life, seq, began, ended)
    return account


def found(verdict: Verdict) -> dict[str, list[int]]:
    names = ("lost", "unexpected", "reordered", "twice", "overlapping")
    return {name: [one.seq for one in getattr(verdict, name)] for name in names if getattr(verdict, name)}


def test_an_account_that_agrees_is_clean() -> None:
    verdict = judge(sent(3), handled((1, 0, 0, 1, 2), (1, 0, 1, 3, 4), (1, 0, 2, 5, 6)))
    assert verdict.clean
    assert (verdict.messages, verdict.handled, verdict.repeats, found(verdict)) == (3, 3, 0, {})


def test_what_nobody_wrote_down_is_lost_but_not_what_was_never_acknowledged() -> None:
    verdict = judge(sent(3, unknown={1}), handled((1, 0, 0, 1, 2)))
    assert found(verdict) == {"lost": [2]}
    assert (verdict.messages, verdict.unknown, verdict.clean) == (2, 1, False)


def test_what_was_never_acknowledged_may_have_been_handled() -> None:
    assert judge(sent(2, unknown={1}), handled((1, 0, 0, 1, 2), (1, 0, 1, 3, 4))).clean


@pytest.mark.parametrize("pair", [PAIR, ("nobody", "notary/1"), ("s", "notary/2")])
def test_what_was_never_sent_is_unexpected(pair: tuple[str, str]) -> None:
    account = handled((1, 0, 0, 1, 2))
    account.add(*pair, 1, 0, 7, 3, 4)
    verdict = judge(sent(1), account)
    assert verdict.unexpected == [Numbered(*pair, 7)]
    assert not verdict.clean


def test_first_handlings_out_of_sequence_are_reordered() -> None:
    assert found(judge(sent(2), handled((1, 0, 1, 1, 2), (1, 0, 0, 3, 4)))) == {"reordered": [0]}


def test_first_handlings_out_of_sequence_in_two_processes_are_reordered() -> None:
    assert found(judge(sent(2), handled((1, 0, 1, 1, 2), (2, 0, 0, 3, 4)))) == {"reordered": [0]}


def test_a_later_life_may_begin_again_from_an_unsettled_place() -> None:
    verdict = judge(sent(3), handled((1, 0, 0, 1, 2), (1, 0, 1, 3, 4), (2, 0, 1, 5, 6), (2, 0, 2, 7, 8)))
    assert verdict.clean
    assert (verdict.repeats, verdict.repeats_by, found(verdict)) == (1, {2: 1}, {})


def test_a_later_life_in_the_same_process_may_do_so_too() -> None:
    assert judge(sent(2), handled((1, 0, 0, 1, 2), (1, 1, 0, 3, 4), (1, 1, 1, 5, 6))).clean


def test_one_life_handles_nothing_twice() -> None:
    verdict = judge(sent(1), handled((1, 0, 0, 1, 2), (1, 0, 0, 3, 4)))
    assert found(verdict) == {"twice": [0]}
    assert not verdict.clean


def test_one_life_does_not_go_back() -> None:
    lines = ((1, 0, 0, 1, 2), (1, 0, 1, 3, 4), (1, 0, 0, 5, 6))
    assert found(judge(sent(2), handled(*lines))) == {"reordered": [0]}


def test_an_older_life_that_goes_on_beside_a_younger_one_overlaps() -> None:
    lines = ((1, 0, 0, 1, 2), (2, 0, 0, 10, 11), (1, 0, 1, 12, 13), (2, 0, 1, 14, 15))
    assert found(judge(sent(2), handled(*lines))) == {"overlapping": [1]}


def test_a_handler_that_was_half_way_when_its_process_froze_does_not_overlap() -> None:
    assert found(judge(sent(2), handled((1, 0, 0, 1, 20), (2, 0, 0, 10, 11), (2, 0, 1, 12, 13)))) == {}


def test_files_are_read_and_a_line_that_was_cut_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "account.12").write_text("notary/1 s 0 3 100 200\nnotary/1 s 1 3 300 4")
    account = Account.read(tmp_path)
    assert account.lives == [(12, 3)]
    assert [one.seq for one in account.handlings(PAIR)] == [0]
    assert found(judge(sent(2), account)) == {"lost": [1]}


def test_recovery_is_the_first_handling_in_another_process() -> None:
    recovery = Recovery(handled((1, 0, 0, 1, 2), (1, 0, 1, 3, 2_000_000_000), (2, 0, 1, 4, 4_000_000_000)))
    assert recovery.after_s([PAIR[1]], 1_000_000_000, process=1) == 3.0
    assert recovery.after_s([PAIR[1]], 5_000_000_000, process=1) is None


def test_rows_become_a_table_of_the_newest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    assert main(path) == 1
    rows = Rows(path, seed=42, long=False)
    verdict = judge(sent(3), handled((1, 0, 0, 1, 2)))
    rows.add("1 kill", verdict, 2, 1.0)
    rows.add("1 kill", verdict, 4, 1.5, [0.5, 1.5, 2.5], stale=3)
    capsys.readouterr()
    assert main(path) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[2:] == ["| 1 kill | 2 | 4 | 3 | 2 | 0 | 0 | 1.50 / 2.50 | stale 3 | 42 |"]
