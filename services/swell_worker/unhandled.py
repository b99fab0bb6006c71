"""Messages that end without having been handled, and without a dead letter: nobody wants them any more.

Their time may be over (`expires_us`). It is looked at just before a handler would begin, or begin again, and when a
message is parked; by the clock of this machine. The ledger counts them as expired, and who asked is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swell.bus.entry import Entry
from swell.clock import SYSTEM
from swell.wire import Message, Series
from swell_worker.executor import Failed
from swell_worker.mailbox import Waiting

if TYPE_CHECKING:
    from swell_worker.cell import Cell
    from swell_worker.retrying import Retrying


def over(cell: Cell, one: Waiting) -> bool:
    """Whether the first series of the mailbox, which may expire, is not to be handled now.

    If it is too late for it, it has ended. If it holds several messages, they wait now each by itself, for the last
    may expire while the first is handled.
    """
    if one.series.count > 1:
        cell.separate(one)
        return True
    if not _is_late(one.series):
        return False
    one.begun = 1
    _expire(cell, one.entry, one.index, one.series.message(0))
    return True


def over_again(cell: Retrying, entry: Entry, index: int, message: Message) -> bool:
    """Whether it became too late for a message before it could be tried again; then it has ended."""
    if not message.expires_us or not _is_late(message):
        return False
    _expire(cell, entry, index, message)
    return True


def over_early(cell: Cell, entry: Entry, index: int, series: Series) -> bool:
    """Whether it is too late for all of a series that would be parked; then it has ended."""
    if not _is_late(series):
        return False
    for place, message in enumerate(series.messages(), index):
        _expire(cell, entry, place, message)
    return True


def _is_late(message: Message | Series) -> bool:
    return SYSTEM.now_us() >= message.expires_us


def _expire(cell: Retrying, entry: Entry, index: int, message: Message) -> None:
    late_s = (SYSTEM.now_us() - message.expires_us) / 1e6
    reason = f"{message.name!r} expired {late_s:.3g} s before {cell.id} could handle it"
    cell.end_unhandled(entry, index, message, Failed("expired", reason))
