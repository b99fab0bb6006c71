"""Ending agents: those given by id, all of a type, or exactly those that a plan has started."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from swell.backoff import RECONNECT
from swell.client import Client
from swell.codec import decode, raw
from swell.errors import AgentExists, BrokerUnavailable, SwellError, UnknownAgent
from swell.keys import is_agent
from swell.wire import TERMINATE, AgentRecord, TerminateAgent, Terminated
from swell_manager.calls import Answer, Question, ask_each

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: So many agents are looked up one by one; for more, all records of a shard are read.
FEW = 32
#: Agents asked to end at one moment.
PAGE = 1000
#: How long an agent may take to handle what was sent to it before, and to end, seconds.
TERMINATE_TIMEOUT_S = 30.0
#: How long a shard's owner may take to tell that it has read all that was sent before, seconds.
BARRIER_TIMEOUT_S = 10.0
#: Agents that could not be ended, as far as an answer names them.
MOST_FAILURES = 1000

_ENDED = ("stopped", "failed")


async def terminate(client: Client, ids: Sequence[str], plan: str = "") -> tuple[int, dict[str, SwellError]]:
    """End agents, PAGE of them at a time. What was sent to them before is handled first.

    Args:
        client: asks.
        ids: the agents.
        plan: only while they are this plan's: another may have spawned one anew under its id since we looked.

    Returns:
        how many ended, and for each of the others the error.
    """
    failed: dict[str, SwellError] = {}
    question = Question(TERMINATE, raw(TerminateAgent(plan) if plan else None), TERMINATE_TIMEOUT_S)
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        await ask_each(client, page, question, _collect(page, failed))
    return len(ids) - len(failed), failed


def summary(ended: int, failed: dict[str, SwellError]) -> Terminated:
    """What `terminate` did, as it is told to the asker."""
    named = list(failed.items())[:MOST_FAILURES]
    return Terminated(ended, {id: str(error) for id, error in named})


async def living(client: Client, *, type: str = "", plan: str = "") -> list[str]:
    """The ids of all agents of a type or a plan that have not ended, by their shards' records."""
    found: list[str] = []
    for shard in client.shard_names:
        for id, record in (await _records(client, shard)).items():
            if record.state not in _ENDED and (record.type == type or (plan and record.plan == plan)):
                found.append(id)
    return found


async def absent(client: Client, ids: Sequence[str]) -> list[str]:
    """Those of these agents that do not live, by their shards' records; the `$spawn` of one may be on its way."""
    found: list[str] = []
    records: dict[str, dict[str, AgentRecord]] = {}
    for id in ids:
        shard = client.shard(id)
        if len(ids) <= FEW:
            encoded = await until_available(partial(client.broker.record, shard, id))
            record = decode(encoded, AgentRecord) if encoded is not None else None
        else:
            if shard not in records:
                records[shard] = await _records(client, shard)
            record = records[shard].get(id)
        if record is None or record.state in _ENDED:
            found.append(id)
    return found


async def roll_back(client: Client, plan: str, begun: Iterable[str]) -> tuple[int, dict[str, SwellError]]:
    """End every agent that a plan has started or may still start, and no other.

    A shard's owner that answers `$live` has read every `$spawn` sent there before, by us or by a manager before us,
    and has written a record for it; so the records behind that answer name exactly the plan's agents. Only where no
    owner answers, those `begun` without a record are asked to end as well: that message waits behind their `$spawn`.

    Args:
        client: asks and reads.
        plan: the plan's id.
        begun: all agents that we sent `$spawn`.

    Returns:
        how many ended, and for each that could not be, the error.
    """
    silent = await silent_shards(client)
    targets = await living(client, plan=plan)
    if silent:
        recorded: set[str] = set()
        for shard in silent:
            recorded.update(await _records(client, shard))
        targets += [id for id in begun if client.shard(id) in silent and id not in recorded]
    ended, failed = await terminate(client, targets, plan)
    # One that is not there (any more), or is another plan's now, is what a roll-back is for.
    gone = [id for id, error in failed.items() if isinstance(error, UnknownAgent | AgentExists)]
    for id in gone:
        del failed[id]
    return ended, failed


async def silent_shards(client: Client) -> set[str]:
    """Wait until every shard's owner has read all that was sent before; returns the shards without such an owner."""
    silent: set[str] = set()

    async def ask(shard: str) -> None:
        try:
            # As `$spawn`, so behind it. An answer that the server has lost says nothing of the owner.
            await until_available(lambda: client.live(shard, [], BARRIER_TIMEOUT_S, priority="normal"))
        except SwellError as error:
            log.warning("no owner answers for a shard: %s", error, extra={"shard": shard})
            silent.add(shard)

    async with asyncio.TaskGroup() as group:
        for shard in client.shard_names:
            group.create_task(ask(shard))
    return silent


async def _records(client: Client, shard: str) -> dict[str, AgentRecord]:
    encoded = await until_available(lambda: client.broker.records(shard))
    return {id: decode(record, AgentRecord) for id, record in encoded.items() if is_agent(id)}


async def until_available(call: Callable[[], Awaitable[_T]]) -> _T:
    """Repeat a question to the server until it answers.

    Raises:
        BrokerRefused: it refuses for good.
    """
    failures = 0
    while True:
        try:
            return await call()
        except BrokerUnavailable as error:
            failures += 1
            if failures == 1:
                log.warning("the server is asked again: %s", error)
            await asyncio.sleep(RECONNECT.wait_s(failures))


def _collect(page: Sequence[str], failed: dict[str, SwellError]) -> Callable[[int, Answer], None]:
    def ended(at: int, answer: Answer) -> None:
        if isinstance(answer, SwellError):
            failed[page[at]] = answer

    return ended
