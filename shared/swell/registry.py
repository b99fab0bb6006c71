"""The registry of agents: what the shards' records say, with what the workers say now laid over it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from swell.codec import decode
from swell.errors import SwellError, WireError, WrongBody
from swell.holds import TYPE_PREFIX, Hold, TypeRecord, types_in
from swell.keys import is_agent
from swell.where import Where, compiled, paths
from swell.wire import AgentRecord, AgentState, LiveAnswer

if TYPE_CHECKING:
    from swell.looking import Looking

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Agents asked for in one `$live` message.
LIVE_PAGE = 1000


def readable(records: Mapping[str, bytes], type: type[_T]) -> Iterator[tuple[str, _T]]:
    """Decode records, passing over those that cannot be read, which are logged: one of them hides no others."""
    for id, record in records.items():
        try:
            yield id, decode(record, type)
        except WireError as error:
            log.error("record cannot be read: %s", error, extra={"record": id})


class AgentView(Struct, omit_defaults=False):
    """One agent as users see it.

    Attributes:
        id: `type/key`.
        state: spawning, ready (not used yet), working, idle, waiting (for its turn under its type's limits), passive
            (let go until the next message), draining, paused, quarantined, terminating, stopped or failed.
        worker: the process that hosts it; empty while nobody owns its shard.
        queued: messages waiting in its mailbox.
        handled: messages handled since it was started there.
        restarts: times it was started anew, after takeovers and crashes.
        generation: times its id was spawned.
        reason: why it failed, or is held.
        since_ms: when the recorded state began, milliseconds since 1970.
    """

    id: str
    type: str
    state: AgentState
    plan: str
    shard: str
    worker: str = ""
    queued: int = 0
    handled: int = 0
    restarts: int = 0
    generation: int = 1
    reason: str = ""
    since_ms: int = 0


#: What a condition on agents may look at; `swell_worker.shard_holds` shows it to the condition.
SEEN = (*AgentView.__struct_fields__, "key")


def check_where(where: Where) -> Where:
    """Return what may be a condition on agents.

    Raises:
        WrongBody: it cannot be one, or looks at a field that no agent has: then it would hold for none.
    """
    compiled(where)
    for path in paths(where):
        if path.partition(".")[0] not in SEEN:
            said = f"where: agents have no field {path!r}, only {', '.join(SEEN)}"
            raise WrongBody("", said, field="where")
    return where


def view(id: str, shard: str, record: AgentRecord, of_type: Hold | None = None) -> AgentView:
    """An agent as its record alone shows it, and the hold of its type."""
    hold = (record.hold or of_type) if record.state == "ready" else None
    return AgentView(
        id=id,
        type=record.type,
        state=record.state if hold is None else hold.state,
        plan=record.plan,
        shard=shard,
        restarts=record.restarts,
        generation=record.generation,
        reason=record.reason if hold is None else hold.reason,
        since_ms=record.since_ms if hold is None else hold.since_ms,
    )


def lay_over(views: list[AgentView], answer: LiveAnswer) -> None:
    """Put what a worker says now over what the records say. Lasting ends (stopped, failed) stay."""
    for one in views:
        live = answer.agents.get(one.id)
        if live is not None:
            one.worker = answer.worker
            one.queued = live.queued
            one.handled = live.handled
            one.state = live.state
            one.reason = live.reason or one.reason


async def agents_of(client: Looking, type: str, state: AgentState | None, limit: int, after: str) -> list[AgentView]:
    """A page of agents in the order of their ids. See `Client.agents`."""
    found: list[AgentView] = []
    for shard in client.shard_names:
        records = await client.broker.records(shard)
        wanted = {id: r for id, r in records.items() if is_agent(id) and (not type or id.startswith(type + "/"))}
        holds = {type: one.hold for type, one in readable(types_in(records), TypeRecord)}
        for id, record in readable(wanted, AgentRecord):
            if id > after:
                one = view(id, shard, record, holds.get(record.type))
                if state is not None or one.state != "stopped":
                    found.append(one)
    found.sort(key=lambda one: one.id)
    if state is None:
        found = found[:limit]
    async with asyncio.TaskGroup() as group:
        for shard in client.shard_names:
            mine = [one for one in found if one.shard == shard]
            for start in range(0, len(mine), LIVE_PAGE):
                group.create_task(_ask_live(client, shard, mine[start : start + LIVE_PAGE]))
    if state is not None:
        found = [one for one in found if one.state == state][:limit]
    return found


async def agent_of(client: Looking, id: str) -> AgentView | None:
    """One agent, None if its id was never spawned or has been forgotten."""
    shard = client.shard(id)
    record = await client.broker.record(shard, id)
    if record is None:
        return None
    of_type = await client.broker.record(shard, TYPE_PREFIX + id.partition("/")[0])
    hold = decode(of_type, TypeRecord).hold if of_type is not None else None
    one = view(id, shard, decode(record, AgentRecord), hold)
    await _ask_live(client, shard, [one])
    return one


async def _ask_live(client: Looking, shard: str, views: list[AgentView]) -> None:
    try:
        lay_over(views, await client.live(shard, [one.id for one in views]))
    except SwellError as error:
        # Nobody owns the shard now, or the answer was lost: the records are all there is to know, `worker` stays empty.
        # Raised in a task of a group, it would come out as a group that nobody who catches our errors catches.
        log.info("what agents do now is not known: %s", error, extra={"shard": shard})
