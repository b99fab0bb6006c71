"""The state behind memory brokers: namespaces, each with its shards, its members and its reply streams."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from swell.bus.memory_fact_shard import FactShard
from swell.bus.memory_ids import Ids, Instant, order
from swell.bus.memory_inbox import MemoryInbox
from swell.bus.memory_shard import MemoryShard
from swell.clock import SYSTEM, Clock
from swell.priority import split


@dataclass(slots=True)
class Replies:
    """The stream of replies to one process; gone when `expires_ms` has passed."""

    expires_ms: int
    ids: Ids = field(default_factory=Ids)
    entries: dict[str, bytes] = field(default_factory=dict)

    def take(self, after: str) -> list[tuple[str, bytes]]:
        """Forget the entries up to id `after`; returns the others."""
        behind = order(after)
        self.entries = {id: payload for id, payload in self.entries.items() if order(id) > behind}
        return list(self.entries.items())


class Namespace:
    """All that one namespace holds. `arrived` has the events of processes that wait for replies."""

    def __init__(self) -> None:
        self.count = 0
        self.replies: dict[str, Replies] = {}
        self.arrived: dict[str, set[asyncio.Event]] = {}
        self._shards: dict[str, MemoryShard] = {}
        self._facts: dict[str, FactShard] = {}
        self._members: dict[str, dict[str, tuple[int, bytes]]] = {}

    def shard(self, name: str) -> MemoryShard:
        """The shard of that name, made when it is first asked for, as keys are."""
        shard = self._shards.get(name)
        if shard is None:
            shard = self._shards[name] = MemoryShard(name)
        return shard

    def inbox(self, name: str) -> MemoryInbox:
        """The inbox of that name."""
        return self.shard(split(name)[0]).inboxes[name]

    def facts(self, name: str) -> FactShard:
        """The facts, locks and barriers of the shard of that name."""
        facts = self._facts.get(name)
        if facts is None:
            facts = self._facts[name] = FactShard(name)
        return facts

    def members(self, role: str, now: Instant) -> dict[str, tuple[int, bytes]]:
        """The live processes of a role -> (when their heartbeat lapses, what they say)."""
        of_role = self._members.get(role, {})
        self._members[role] = {name: member for name, member in of_role.items() if member[0] > now.ms}
        return self._members[role]

    def reply(self, process: str, payload: bytes, now: Instant) -> bool:
        """Append replies to the stream of a process; False if it is gone."""
        stream = self.replies_to(process, now)
        if stream is None:
            return False
        stream.entries[stream.ids.next(now)] = payload
        for event in self.arrived.get(process, ()):
            event.set()
        return True

    def replies_to(self, process: str, now: Instant) -> Replies | None:
        """The reply stream of a process; an expired one is removed."""
        stream = self.replies.get(process)
        if stream is not None and stream.expires_ms <= now.ms:
            del self.replies[process]
            return None
        return stream


class MemoryServer:
    """The state that several `MemoryBroker`s share.

    Args:
        clock: measures leases and TTLs (monotonic) and makes epochs and ids (microseconds since 1970).
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._namespaces: dict[str, Namespace] = {}

    def now(self) -> Instant:
        """The server's time."""
        return Instant(int(self._clock.monotonic() * 1000), self._clock.now_us())

    def namespace(self, name: str) -> Namespace:
        """The namespace of that name, made when it is first asked for."""
        return self._namespaces.setdefault(name, Namespace())

    def inject(self, namespace: str, inbox: str, payload: bytes) -> str:
        """Put an entry that no append wrote into an inbox, as a stranger's XADD would; returns its id."""
        return self.namespace(namespace).inbox(inbox).add(0, payload, self.now())
