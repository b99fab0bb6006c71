"""Which task is next, and who is free for it."""

from __future__ import annotations

from swell.priority import RANKS
from swell_worker.mailbox import MOST_PASSED
from swell_worker.task_queue import Given, Hands, Ranked


def test_what_waits_is_taken_by_priority_and_nothing_starves() -> None:
    ranked: Ranked[int] = Ranked()
    for rank in RANKS:
        for number in range(100):
            ranked.put(f"{rank}.{number}", rank * 100 + number, rank)
    assert len(ranked) == 400
    taken = [ranked.take() for _ in range(400)]
    assert taken[0] == 0
    assert taken.index(300) <= MOST_PASSED + len(RANKS)
    for rank in RANKS:
        mine = [one for one in taken if one // 100 == rank]
        assert mine == sorted(mine)


def given(task: str, agent: str, home: str = "0") -> Given:
    return Given(home, task, 0, 1, agent)


def test_hands_give_each_agent_one_task_and_forget_those_that_are_gone() -> None:
    hands = Hands()
    hands.keep(given("old", "a", "1"))
    hands.found(["a", "b", "c"])
    for task in ("t1", "t2"):
        hands.keep(given(task, hands.take()))
    assert list(hands.busy) == ["a", "b", "c"]
    assert not hands.free
    hands.release(given("other", "b"))
    assert not hands.free, "that was not its task"
    hands.release(given("t1", "b"))
    hands.release(given("t2", "c"), gone=True)
    hands.lost("1")
    assert list(hands.free) == ["a", "b"], "who has just answered is first"


def test_what_does_not_wait_any_more_is_not_there() -> None:
    ranked: Ranked[int] = Ranked()
    for number in range(4):
        ranked.put(str(number), number, number % 2)
    ranked.drop("0", 0)
    ranked.drop("3", 1)
    ranked.drop("3", 1)
    assert len(ranked) == 2
    assert [ranked.take(), ranked.take()] == [2, 1]
