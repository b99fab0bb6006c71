"""Groups of subscribers, of whom one gets each event.

    agent subscribes with a group --$member--> the group's home shard: a record of it, and a place in a ring
    $event at the home shard --> the rings of each group that match --> one member --> a message in its own shard

A group's home is the shard that its name hashes to, so one process chooses among all its members, wherever they live.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from swell.codec import decode, encode
from swell.errors import SwellError
from swell.topics import Event, Member, Pick, Subscription, TopicIndex
from swell.where import Test, compiled
from swell_worker.subscribers import Body

if TYPE_CHECKING:
    from swell.client import Client

log = logging.getLogger(__name__)

#: How old what is known of the members' queues may be, seconds.
LOADS_S = 0.2
#: Members of a group whose queues are looked at; of more, as many at random.
MOST_LOOKED_AT = 512
_PREFIX = "$member/"


class Ring:
    """Those of one group that made the same subscription."""

    __slots__ = ("_places", "group", "handler", "members", "pick", "test", "topic")

    def __init__(self, subscription: Subscription) -> None:
        self.group = subscription.group
        self.topic = subscription.topic
        self.handler = subscription.handler
        self.pick: Pick = subscription.pick
        self.test: Test | None = compiled(subscription.where) if subscription.where is not None else None
        self.members: list[str] = []
        self._places: dict[str, int] = {}

    def add(self, agent: str) -> None:
        """Let an agent in."""
        if agent not in self._places:
            self._places[agent] = len(self.members)
            self.members.append(agent)

    def remove(self, agent: str) -> None:
        """Let an agent go; the last takes its place."""
        place = self._places.pop(agent, None)
        if place is not None:
            last = self.members.pop()
            if last != agent:
                self.members[place] = last
                self._places[last] = place


class Groups:
    """The groups whose home is one shard."""

    def __init__(self) -> None:
        self._index: TopicIndex[Ring] = TopicIndex()
        self._rings: dict[bytes, Ring] = {}
        self._joined: dict[tuple[str, str], list[Subscription]] = {}
        self._turns: dict[str, int] = {}
        self._loads: dict[str, tuple[float, dict[str, int]]] = {}

    def load(self, records: Mapping[str, bytes]) -> None:
        """Take over what the shard's records say."""
        for id, record in records.items():
            if not id.startswith(_PREFIX):
                continue
            _, group, agent = id.split("/", 2)
            try:
                for subscription in decode(record, list[Subscription]):
                    self._enter(agent, subscription)
                    self._joined.setdefault((group, agent), []).append(subscription)
            except SwellError as error:  # Another release wrote it: the group's other members hear all the same.
                log.error("member of group %s cannot be read: %s", group, error, extra={"agent": agent})

    def change(self, member: Member) -> tuple[str, bytes | None] | None:
        """Let an agent in, or go; returns the record to write (None: to delete), or None if nothing changed."""
        wanted = member.subscription
        joined = self._joined.get((wanted.group, member.agent), [])
        # Without a topic, or a handler: whichever.
        same = [one for one in joined if wanted.topic in ("", one.topic) and wanted.handler in ("", one.handler)]
        if same == ([] if member.end else [wanted]):
            return None
        for one in same:
            self._leave(member.agent, one)
        left = [one for one in joined if one not in same]
        if not member.end:
            self._enter(member.agent, wanted)
            left.append(wanted)
        id = f"{_PREFIX}{wanted.group}/{member.agent}"
        if not left:
            self._joined.pop((wanted.group, member.agent), None)
            return id, None
        self._joined[wanted.group, member.agent] = left
        return id, encode(left)

    def _enter(self, agent: str, subscription: Subscription) -> None:
        key = encode(subscription)
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = Ring(subscription)
            self._index.add(subscription.topic, ring)
        ring.add(agent)

    def _leave(self, agent: str, subscription: Subscription) -> None:
        key = encode(subscription)
        ring = self._rings.get(key)
        if ring is not None:
            ring.remove(agent)
            if not ring.members:
                del self._rings[key]
                self._index.remove(ring.topic, ring)
                self._turns.pop(ring.group, None)
                self._loads.pop(ring.group, None)

    def match(self, event: Event, body: Body) -> list[list[Ring]]:
        """For each group that an event is for, the rings to choose from."""
        found: dict[str, list[Ring]] = {}
        for ring in self._index.match(event.topic):
            if body.passes(ring.test):
                found.setdefault(ring.group, []).append(ring)
        return list(found.values())

    async def choose(self, client: Client, rings: list[Ring]) -> tuple[str, str] | None:
        """One member and its handler; None if all have left meanwhile."""
        size = sum(len(ring.members) for ring in rings)
        if not size:
            return None
        group, pick = rings[0].group, rings[0].pick
        if pick == "least_busy":
            return await self._least_busy(client, group, rings)
        if pick == "random":
            place = random.randrange(size)
        else:
            place = self._turns.get(group, 0) % size
            self._turns[group] = place + 1
        for ring in rings:
            if place < len(ring.members):
                return ring.members[place], ring.handler
            place -= len(ring.members)
        return None

    async def _least_busy(self, client: Client, group: str, rings: list[Ring]) -> tuple[str, str]:
        """The member with the fewest messages waiting, counting those that we sent it since we looked."""
        handlers = {member: ring.handler for ring in rings for member in ring.members}
        looked_at, loads = self._loads.get(group, (0.0, {}))
        if time.monotonic() - looked_at > LOADS_S:
            members = list(handlers)
            if len(members) > MOST_LOOKED_AT:
                members = random.sample(members, MOST_LOOKED_AT)
            loads = await _loads_of(client, members)
            self._loads[group] = time.monotonic(), loads
        known = [member for member in loads if member in handlers] or list(handlers)
        least = min(known, key=lambda member: loads.get(member, 0))
        loads[least] = loads.get(least, 0) + 1
        return least, handlers[least]


async def _loads_of(client: Client, members: list[str]) -> dict[str, int]:
    """What waits for each of these agents; those whose shard nobody owns now are left out."""
    by_shard: dict[str, list[str]] = {}
    for member in members:
        by_shard.setdefault(client.shard(member), []).append(member)

    async def ask(shard: str, ids: list[str]) -> Iterator[tuple[str, int]]:
        try:
            answer = await client.live(shard, ids, 1.0)
        except SwellError:
            return iter(())
        return ((id, live.queued + (live.state == "working")) for id, live in answer.agents.items())

    found = await asyncio.gather(*(ask(shard, ids) for shard, ids in by_shard.items()))
    return {id: load for part in found for id, load in part}
