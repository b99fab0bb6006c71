"""Agents that a former owner of their shard began to start: their `$spawn` is in the inbox of normal messages still.

    recorded as spawning --message of another priority--> parked --$spawn--> born --> handled
                                                             |
                                                             +--$spawn is given up--> failed: dead

What is read for them before that is not for nobody: its sender may have been told that they live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from swell.bus.entry import Entry
from swell.bus.shard import OwnedShard
from swell.clock import now_ms
from swell.codec import encode
from swell.wire import AgentRecord, Message
from swell_worker.shard_agents import ShardAgents

if TYPE_CHECKING:
    from swell_worker.cell import Cell
    from swell_worker.host import Fleet


def await_birth(fleet: Fleet, unborn: Cell, entry: Entry, index: int, message: Message) -> None:
    """Park a message until its agent is born: only its place is kept in memory."""
    entry.mark(unborn.settled, message.sent_us, 1)
    unborn.box(entry.inbox.rank).parked.append((entry, index))
    fleet.recorder.count("parked")
    entry.parked += 1
    if entry.left <= entry.parked:
        entry.inbox.quiet(entry)


def stillborn(fleet: Fleet, agents: ShardAgents, shard: OwnedShard, id: str, reason: str) -> None:
    """An agent's `$spawn` is given up: it has failed, and what waits for its birth becomes dead letters."""
    type, _, key = id.partition("/")
    record = AgentRecord(type, key, "failed", reason=reason, since_ms=now_ms())
    shard.record(id, encode(record))
    unborn = agents.unborn.pop(id, None)
    if unborn is None or unborn.idle:
        agents.ended[id] = record
        return
    unborn.record = record
    agents.cells[id] = unborn
    fleet.wake(unborn)
