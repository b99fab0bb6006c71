"""What lies in a mailbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swell.bus.entry import Entry
from swell.wire import Series


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
