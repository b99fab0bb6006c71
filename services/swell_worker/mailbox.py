"""What waits for an agent: a mailbox for each priority of its messages, and whose turn it is.

An agent has one mailbox until a message of another priority than normal comes. Then the most urgent mailbox that holds
something is next; but one that was passed over MOST_PASSED times has its turn, so that none starves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swell.bus.entry import Entry
from swell.wire import Series

#: Turns of more urgent mailboxes, or agents, before a less urgent one that waits has its own.
MOST_PASSED = 16


class Waiting:
    """A series in a mailbox.

    Attributes:
        index: the place of its first message in its entry.
        begun: how many of its messages were begun.
        bodies: theirs, decoded, once they are; empty if the handler takes none.
    """

    __slots__ = ("begun", "bodies", "entry", "index", "series")

    def __init__(self, entry: Entry, index: int, series: Series) -> None:
        self.entry = entry
        self.index = index
        self.series = series
        self.begun = 0
        self.bodies: Sequence[Any] = ()


class Mailbox:
    """An agent's messages of one priority.

    Attributes:
        line: series of messages waiting, oldest first; of the first some may have been handled.
        waiting: messages in line, counting the first series whole.
        parked: (entry, index) of messages that did not fit, oldest first.
        passed: how often a more urgent one had its turn while this one waited.
    """

    __slots__ = ("line", "parked", "passed", "waiting")

    def __init__(self) -> None:
        # Lists, because an empty deque takes 0.7 KiB; both stay short, or are taken from in large pieces.
        self.line: list[Waiting] = []
        self.waiting = 0
        self.parked: list[tuple[Entry, int]] = []
        self.passed = 0

    def put(self, entry: Entry, index: int, series: Series) -> None:
        """Put a series in; its first message has the place `index` in its entry."""
        self.line.append(Waiting(entry, index, series))
        self.waiting += series.count

    @property
    def behind(self) -> int:
        """Messages in line that were not begun."""
        return self.waiting - (self.line[0].begun if self.line else 0)

    @property
    def empty(self) -> bool:
        """Whether nothing is in line or parked."""
        return not (self.line or self.parked)


def choose(boxes: Sequence[Mailbox]) -> Mailbox | None:
    """Whose turn it is among an agent's mailboxes, the most urgent first; None if all are empty."""
    waiting = [box for box in boxes if not box.empty]
    if len(waiting) < 2:
        return waiting[0] if waiting else None
    chosen = next((box for box in reversed(waiting) if box.passed >= MOST_PASSED), waiting[0])
    chosen.passed = 0
    for box in waiting[waiting.index(chosen) + 1 :]:
        box.passed += 1
    return chosen
