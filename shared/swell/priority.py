"""How urgent a message is, and the inbox that it therefore lies in.

A shard has an inbox for each priority, and one lease, one ledger and one set of records for all of them. The inbox of
normal messages bears the shard's name, `3`; the others are called `3.critical`, `3.high` and `3.low`. Each is read,
kept in order and settled by itself, so that no backlog of one stands before another.
"""

from __future__ import annotations

from typing import Literal, get_args

from swell.errors import WrongBody

Priority = Literal["critical", "high", "normal", "low"]

#: The most urgent first; the place of one here is its rank.
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
NORMAL = PRIORITIES.index("normal")
RANKS = range(len(PRIORITIES))
#: What urgent messages may fill of a shard beyond its limit, as a part of it: senders of normal ones that keep it full
#: do not keep these out.
RESERVE = {"critical": 0.25, "high": 0.125}


def inbox_of(shard: str, priority: Priority) -> str:
    """The name of a shard's inbox.

    Raises:
        WrongBody: there is no such priority.
    """
    if priority == "normal":
        return shard
    if priority not in PRIORITIES:
        raise WrongBody("", f"priority: {priority!r} must be one of {', '.join(PRIORITIES)}", field="priority")
    return f"{shard}.{priority}"


def split(inbox: str) -> tuple[str, str]:
    """The shard of an inbox, and its priority; "" for normal."""
    shard, _, priority = inbox.partition(".")
    return shard, priority


def rank(inbox: str) -> int:
    """The rank of the messages in an inbox: 0 for the most urgent."""
    _, priority = split(inbox)
    return PRIORITIES.index(priority) if priority in PRIORITIES else NORMAL


def inboxes(shard: str) -> list[str]:
    """All inboxes of a shard, the most urgent first."""
    return [inbox_of(shard, priority) for priority in PRIORITIES]


def room(inbox: str, max_depth: int) -> int:
    """How many unsettled messages the shard may hold for an append to this inbox."""
    _, priority = split(inbox)
    return max_depth + int(max_depth * RESERVE[priority]) if priority in RESERVE else max_depth
