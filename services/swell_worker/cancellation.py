"""Taking messages back: one that was not begun ends unhandled, a handler that runs is cancelled as at its time limit.

    $cancel --> in the mailbox?  not begun: taken out    begun: its task is cancelled, and the message ends
            |
            +-> parked?          the request waits, unsettled, until the agent's parked messages were fetched
            |
            +-> waits for its time?  removed (`due.py`)

A request goes to the shard, not to the agent's mailbox, so it is looked at as soon as it is read; what it is about was
appended before it, so in the same inbox it has been read by then. It is settled with, or after, the message that it
ends. Whoever does not know the inbox sends one to each, and is content with the first that finds it: what such a
request that comes late may end is only what was sent before it, for the same id may be in use again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from swell.bus.entry import Entry
from swell.later import Cancel, message_key, taken_of
from swell.wire import ID_HEADER, Message, Series
from swell_worker.executor import Failed
from swell_worker.gates import place

if TYPE_CHECKING:
    from swell_worker.cell import Cell
    from swell_worker.host import Fleet
    from swell_worker.retrying import Retrying
    from swell_worker.shard_agents import ShardAgents


class Request(NamedTuple):
    """A request under way: what is to end, and the message that asks for it, at `place` of its entry."""

    what: Cancel
    entry: Entry
    place: int
    message: Message


def cancel(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    """Carry out the request at `index` of an entry; its asker is told whether there was such a message.

    Args:
        fleet: answers.
        agents: those of the shard.
        entry: where the request is.
        index: its place there.
        message: itself.
    """
    what = fleet.read(entry, index, message, Cancel)
    if what is None:
        return
    request = Request(what, entry, index, message)
    cell = agents.find(what.to)
    if cell is not None and _in_mailbox(cell, request):
        _answer(fleet, request, there=True)
    elif cell is not None and any(box.parked for box in cell.all_boxes):
        cell.sought = (*cell.sought, request)
    else:
        _look_further(fleet, request)


def caught(fleet: Fleet, cell: Cell, entry: Entry, index: int, series: Series) -> bool:
    """Whether a message that was parked, and is fetched now, is one that somebody wants to end; then it has ended."""
    for request in cell.sought:
        if _is_meant(request, entry, index, series):
            cell.sought = tuple(other for other in cell.sought if other is not request)
            _end(cell, entry, index, series.message(0))
            _answer(fleet, request, there=True)
            return True
    return False


def give_up_search(fleet: Fleet, cell: Cell) -> None:
    """Nothing is parked any more: what was sought is not at the agent."""
    sought, cell.sought = cell.sought, ()
    for request in sought:
        _look_further(fleet, request)


def dropped(cell: Retrying, entry: Entry, index: int, message: Message) -> bool:
    """Whether the message whose attempt ended without a result is one that somebody cancelled; then it has ended.

    Raises:
        asyncio.CancelledError: this task is to end.
    """
    if cell.unwanted != (entry, index):
        return False
    cell.unwanted = None
    cell.calm()
    _end(cell, entry, index, message)
    return True


def _in_mailbox(cell: Cell, request: Request) -> bool:
    for box, one in [(each, one) for each in cell.all_boxes for one in each.line]:
        if not _is_meant(request, one.entry, one.index, one.series):
            continue
        if one.begun:
            if one.entry.flags[one.index]:
                continue  # It has ended, and is still the first of the mailbox.
            cell.unwanted = (one.entry, one.index)
            cell.interrupt()
        else:
            box.line.remove(one)
            box.waiting -= 1
            one.begun = 1  # Whoever was about to begin it sees by that that it is gone.
            _end(cell, one.entry, one.index, one.series.message(0))
        return True
    return False


def _is_meant(request: Request, entry: Entry, index: int, series: Series) -> bool:
    """Whether a message is the one that a request is about: so it is called, and was sent before."""
    what = request.what
    if series.count != 1:
        return False
    if what.process:
        if series.call != what.call or series.reply_to != what.process:
            return False
    elif series.headers is None or series.headers.get(ID_HEADER) != what.id:
        return False
    sent, asked = place(entry, index), place(request.entry, request.place)
    taken_ms = taken_of(series.headers)
    if taken_ms or entry.inbox is not request.entry.inbox:
        return (taken_ms or sent[0]) <= asked[0]  # Of two inboxes, only the times at which they were taken compare.
    return sent < asked


def _end(cell: Retrying, entry: Entry, index: int, message: Message) -> None:
    # In the same call as the request's own end, however young the entry is: else a crash could undo only one of them.
    entry.shard.whole = True
    cell.end_unhandled(entry, index, message, Failed("cancelled", f"{message.name!r} of {cell.id} was cancelled"))


def _look_further(fleet: Fleet, request: Request) -> None:
    what = request.what
    if what.id:
        fleet.due.remove(message_key(what.to, what.id), request.entry, request.place, request.message)
    else:
        _answer(fleet, request, there=False)


def _answer(fleet: Fleet, request: Request, *, there: bool) -> None:
    fleet.reply(request.message, there)
    request.entry.ack(request.place)
