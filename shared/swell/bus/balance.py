"""Which shards a process should own: pure decisions, the same in every process that sees the same members."""

from __future__ import annotations

from collections.abc import Sequence


def fair_share(members: Sequence[str], me: str, shards: int) -> int:
    """How many of `shards` are mine when all `members` take equal shares; the first few take one more.

    Give the members in the order of their age: then a newcomer takes nothing from those that were there unless it has a
    right to a whole share, and whoever leads (owns the one shard of its role) goes on leading.

    0 if I am not (yet) among the members.
    """
    if me not in members:
        return 0
    base, extra = divmod(shards, len(members))
    return base + (1 if members.index(me) < extra else 0)


def to_take(free: Sequence[str], owned: int, share: int, members: Sequence[str], me: str) -> list[str]:
    """The free shards that I try to take, so that processes that look at once begin at different ones."""
    missing = min(share - owned, len(free))
    if missing <= 0:
        return []
    start = members.index(me) * len(free) // len(members) if me in members else 0
    turned = [*free[start:], *free[:start]]
    return turned[:missing]


def to_hand_over(owned: Sequence[str], share: int) -> list[str]:
    """The shards that I give up, because others have a right to them: the last ones in order."""
    return sorted(owned)[share:] if len(owned) > share else []
