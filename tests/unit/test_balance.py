"""Shares of shards: every process that sees the same members decides the same, and they add up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swell.bus.balance import fair_share, to_hand_over, to_take

members_of = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=8, unique=True)


@given(members_of, st.integers(1, 64))
def test_shares_add_up_and_differ_by_one_at_most(members: list[str], shards: int) -> None:
    shares = [fair_share(members, me, shards) for me in members]
    assert sum(shares) == shards
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


@given(members_of)
def test_a_newcomer_does_not_take_the_one_shard_of_a_role(members: list[str]) -> None:
    assert fair_share([*members, "newcomer"], "newcomer", 1) == 0
    assert fair_share([*members, "newcomer"], members[0], 1) == 1


def test_who_is_no_member_has_no_share() -> None:
    assert fair_share(["a"], "b", 8) == 0
    assert fair_share([], "b", 8) == 0


@given(members_of, st.integers(0, 16), st.integers(0, 16), st.integers(0, 16))
def test_as_many_free_shards_are_taken_as_are_missing_each_once(
    members: list[str], free: int, owned: int, share: int
) -> None:
    names = [str(shard) for shard in range(free)]
    for me in (*members, "stranger"):
        taken = to_take(names, owned, share, members, me)
        assert len(taken) == len(set(taken)) == max(0, min(share - owned, free))
        assert set(taken) <= set(names)


def test_members_that_look_at_once_begin_at_different_shards() -> None:
    free = [str(shard) for shard in range(8)]
    members = ["a", "b", "c", "d"]
    firsts = [to_take(free, 0, 2, members, me) for me in members]
    assert sorted(name for taken in firsts for name in taken) == free


@given(st.sets(st.integers(0, 63).map(str)), st.integers(0, 64))
def test_only_what_is_beyond_the_share_is_handed_over(owned: set[str], share: int) -> None:
    given_up = to_hand_over(list(owned), share)
    assert len(given_up) == max(0, len(owned) - share)
    assert set(given_up) <= owned
