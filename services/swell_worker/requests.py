"""What a shard is asked, rather than one of its agents: messages to `$shard`, each looked at as soon as it is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from swell.bus.entry import Entry
from swell.wire import (
    CANCEL,
    EVENT,
    HOLD,
    LATER,
    LIVE,
    MEMBER,
    SUBSCRIBE,
    TASK,
    TASK_CANCEL,
    TASK_ENDED,
    TASK_LISTEN,
    TASK_WAIT,
    UNSCHEDULE,
    LiveAnswer,
    LiveQuery,
    Message,
)
from swell_worker.cancellation import cancel
from swell_worker.shard_agents import ShardAgents

if TYPE_CHECKING:
    from swell_worker.host import Fleet

#: Takes a request: the agents of its shard, and where it is.
Take = Callable[["Fleet", ShardAgents, Entry, int, Message], None]


def _live(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    query = fleet.read(entry, index, message, LiveQuery)
    if query is None:
        return
    cells = agents.cells
    live = {id: cells[id].live() for id in query.ids if id in cells}
    fleet.reply(message, LiveAnswer(fleet.client.process, live))
    entry.ack(index)


def _later(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.due.later(entry, index, message)


def _unschedule(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.due.unschedule(entry, index, message)


def _cancel(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    cancel(fleet, agents, entry, index, message)


def _event(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.events.take(entry, index, message)


def _member(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.events.member(entry, index, message)


def _subscribe(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.events.subscribe(entry, index, message, agents.cells)


def _hold(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.oversight.holds.take(entry, index, message)


def _task(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.tasks.take(entry, index, message)


def _task_wait(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.tasks.wait(entry, index, message)


def _task_cancel(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.tasks.cancel(entry, index, message)


def _task_listen(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.outcomes.listen(entry, index, message)


def _task_ended(fleet: Fleet, agents: ShardAgents, entry: Entry, index: int, message: Message) -> None:
    fleet.tasks.ended(entry, index, message)


#: By the name of the message.
REQUESTS: dict[str, Take] = {
    LIVE: _live,
    LATER: _later,
    UNSCHEDULE: _unschedule,
    CANCEL: _cancel,
    EVENT: _event,
    MEMBER: _member,
    SUBSCRIBE: _subscribe,
    TASK: _task,
    TASK_WAIT: _task_wait,
    TASK_CANCEL: _task_cancel,
    TASK_ENDED: _task_ended,
    TASK_LISTEN: _task_listen,
    HOLD: _hold,
}
