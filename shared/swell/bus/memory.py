"""A broker without a server: the state lives in this process, for users' tests and for ours.

    server = MemoryServer()
    one, other = MemoryBroker(server, "reviews"), MemoryBroker(server, "reviews")     # each plays one process

It passes the conformance suite that the Redis broker passes. Every call lets the event loop turn once, as a round
trip would; leases and TTLs lapse by the server's clock, which tests may move; reads block on events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from swell.bus.broker import (
    Append,
    Appended,
    Delivered,
    Glance,
    Inheritance,
    Lease,
    LeaseState,
    Ledger,
    Member,
    Refused,
    ReplayStatus,
    Settlement,
)
from swell.bus.events import FanOut, FanOutStatus
from swell.bus.memory_facts import FactsInMemory
from swell.bus.memory_server import MemoryServer, Replies
from swell.bus.memory_shard import MemoryShard
from swell.bus.timed import Fired, Next, Waiting
from swell.errors import GroupGone
from swell.keys import check_namespace, is_task
from swell.priority import split


@dataclass(slots=True, eq=False)
class _Reader:
    """One `read` that may wait: `event` ends the wait, `woken` says that it was `wake` and the read is over."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    woken: bool = False


class _Gone:
    """Stands where the server was for a process that is dead: whatever of it still runs ends with its next call."""

    def __getattr__(self, name: str) -> Any:
        raise asyncio.CancelledError


class MemoryBroker(FactsInMemory):
    """One process's connection to a `MemoryServer`; see `swell.bus.broker.Broker` for what each method promises.

    Raises:
        ConfigError: the namespace is malformed.
    """

    def __init__(self, server: MemoryServer, namespace: str) -> None:
        self._server = server
        self._space = server.namespace(check_namespace(namespace))
        self._readers: set[_Reader] = set()

    def sever(self) -> None:
        """Let nothing through any more, as if the process had been killed: who calls is cancelled."""
        self._server = self._space = cast(Any, _Gone())

    async def open(self, shards: int) -> int:
        """Create the namespace with `shards` shards if it is new; returns how many it has."""
        await _turn()
        self._space.count = self._space.count or shards
        return self._space.count

    async def close(self) -> None:
        """Nothing to close: the state is the server's."""
        await _turn()

    async def ping(self) -> float:
        """One turn of the event loop, in seconds."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        await _turn()
        return loop.time() - before

    async def trouble(self) -> str:
        """Nothing can be wrong with this process's memory that would not end it."""
        await _turn()
        return ""

    async def memory(self) -> tuple[int, int]:
        """The memory of this process is nobody's limit."""
        await _turn()
        return 0, 0

    async def append(self, producer: str, appends: Sequence[Append], max_depth: int) -> list[Appended]:
        """Append batches, in the order given, each whole or not at all."""
        await _turn()
        now = self._server.now()
        refused: set[str] = set()
        answers = []
        for append in appends:
            inbox = self._space.inbox(append.shard)
            answers.append(inbox.append(producer, append, max_depth, now, behind=append.shard in refused))
            if answers[-1].status in ("busy", "gap"):
                refused.add(append.shard)
        return answers

    async def acquire(self, shard: str, owner: str, lease_ms: int) -> Lease | Refused:
        """Take a free or lapsed shard."""
        await _turn()
        return self._space.shard(shard).acquire(owner, lease_ms, self._server.now())

    async def inherit(self, lease: Lease) -> Inheritance:
        """Read what the former owners of a shard left."""
        await _turn()
        return self._space.shard(lease.shard).inheritance()

    async def trial(self, lease: Lease, id: str, index: int, *, begin: bool = True) -> int:
        """Note that a message of a suspect entry is handled alone now, or take that back."""
        await _turn()
        return self._home(lease.shard).trial(lease, id, index, begin)

    async def renew(self, leases: Sequence[Lease], lease_ms: int) -> list[bool]:
        """Prolong leases; False for one that is no longer ours."""
        await _turn()
        now = self._server.now()
        return [self._space.shard(lease.shard).renew(lease, lease_ms, now) for lease in leases]

    async def release(self, lease: Lease) -> bool:
        """Give a shard back; False if it was no longer ours."""
        await _turn()
        return self._space.shard(lease.shard).release(lease)

    async def read(self, owner: str, inboxes: Sequence[str], count: int, block_ms: int) -> list[Delivered]:
        """Read up to `count` new entries of each inbox, waiting up to `block_ms` for the first.

        Raises:
            GroupGone: one of the shards is no longer ours.
        """
        await _turn()
        owned = [self._space.inbox(name) for name in inboxes]
        deadline = asyncio.get_running_loop().time() + block_ms / 1000
        reader = _Reader()
        for inbox in owned:
            inbox.changed.add(reader.event)
        self._readers.add(reader)
        try:
            while True:
                reader.event.clear()
                # All groups are checked before anything is delivered: a read delivers everything or raises.
                for inbox in owned:
                    inbox.check_owner(owner)
                found = [entry for inbox in owned for entry in inbox.read(owner, count)]
                if found or reader.woken or not await _set_before(deadline, reader.event):
                    return found
        finally:
            self._readers.discard(reader)
            for inbox in owned:
                inbox.changed.discard(reader.event)

    async def wake(self) -> None:
        """End each `read` that is waiting now, with nothing."""
        await _turn()
        for reader in self._readers:
            reader.woken = True
            reader.event.set()

    async def pending(self, owner: str, inbox: str, after: str, count: int) -> list[Delivered]:
        """Read again, in order, entries delivered to us and not settled, behind id `after`.

        Raises:
            GroupGone: the shard is no longer ours.
        """
        await _turn()
        return self._space.inbox(inbox).pending(owner, after, count)

    async def fetch(self, inbox: str, ids: Sequence[str]) -> list[Delivered]:
        """Read given entries again; those that no longer exist are left out."""
        await _turn()
        return self._space.inbox(inbox).fetch(ids)

    async def settle(
        self, settlements: Sequence[Settlement], replies: Mapping[str, bytes] | None = None
    ) -> tuple[list[bool], int]:
        """Write outcomes and records, then replies; returns which epochs are ours, and how many streams were gone."""
        await _turn()
        now = self._server.now()
        valid = [self._space.shard(settlement.lease.shard).settle(settlement, now) for settlement in settlements]
        gone = sum(not self._space.reply(process, payload, now) for process, payload in (replies or {}).items())
        return valid, gone

    async def fire(self, lease: Lease, nexts: Sequence[Next] = (), most: int = 256) -> Fired | None:
        """Move what is due into the inbox; None if the lease is no longer ours."""
        await _turn()
        return self._space.shard(lease.shard).fire(lease, nexts, most, self._server.now())

    async def fan_out(self, lease: Lease, step: FanOut, most_depth: int) -> FanOutStatus:
        """Append what events become, and move the shard's mark."""
        await _turn()
        return self._home(lease.shard).fan_out(lease, step, most_depth, self._server.now())

    async def scheduled(self, shard: str, count: int) -> list[Waiting]:
        """The messages of a shard that are due first."""
        await _turn()
        return self._space.shard(shard).due.first(count)

    async def waits(self, shard: str, id: str) -> bytes | None:
        """What is stored under this id; None if nothing is."""
        await _turn()
        timed = self._space.shard(shard).due.get(id)
        return timed.value if timed is not None else None

    async def open_replies(self, process: str, ttl_ms: int) -> bool:
        """Create our reply stream, or prolong it; returns whether it was not there."""
        await _turn()
        now = self._server.now()
        stream = self._space.replies_to(process, now)
        if stream is None:
            self._space.replies[process] = Replies(now.ms + ttl_ms)
        else:
            stream.expires_ms = now.ms + ttl_ms
        return stream is None

    async def read_replies(self, process: str, after: str, block_ms: int) -> list[tuple[str, bytes]]:
        """Read replies behind id `after` and forget those up to it; waits up to `block_ms` for the first.

        Raises:
            GroupGone: there is no such stream, or not any more.
        """
        await _turn()
        deadline = asyncio.get_running_loop().time() + block_ms / 1000
        arrived = asyncio.Event()
        waiting = self._space.arrived
        events = waiting.setdefault(process, set())
        events.add(arrived)
        try:
            while True:
                arrived.clear()
                stream = self._space.replies_to(process, self._server.now())
                found = stream.take(after) if stream is not None else []
                if found or not await _set_before(deadline, arrived):
                    if self._space.replies_to(process, self._server.now()) is None:
                        raise GroupGone(f"the reply stream of {process} is gone")
                    return found
        finally:
            events.discard(arrived)
            if not events:
                waiting.pop(process, None)

    async def heartbeat(self, role: str, process: str, ttl_ms: int, info: bytes) -> list[Member]:
        """Say that we live for `ttl_ms` more (0: that we leave); returns all live members of the role, sorted."""
        await _turn()
        now = self._server.now()
        members = self._space.members(role, now)
        if ttl_ms > 0:
            lapses_ms = now.ms + ttl_ms
            # Later than that nobody lapses, unless the clock was set back.
            members.update({name: (min(at_ms, lapses_ms), said) for name, (at_ms, said) in members.items()})
            members[process] = (lapses_ms, info)
        else:
            members.pop(process, None)
        return _sorted(members)

    async def members(self, role: str) -> list[Member]:
        """All live processes of a role, sorted by name."""
        await _turn()
        return _sorted(self._space.members(role, self._server.now()))

    async def leases(self, shards: Sequence[str]) -> list[LeaseState]:
        """The lease of each shard."""
        await _turn()
        now = self._server.now()
        return [self._space.shard(shard).lease(now) for shard in shards]

    async def glance(self, shards: Sequence[str]) -> list[Glance]:
        """How shards are now."""
        await _turn()
        now = self._server.now()
        return [self._space.shard(shard).glance(now) for shard in shards]

    async def ledger(self, shard: str) -> Ledger:
        """The account of a shard, audited against its inbox in the same instant."""
        await _turn()
        return self._space.shard(shard).ledger()

    async def records(self, shard: str) -> dict[str, bytes]:
        """All records of a shard."""
        await _turn()
        return dict(self._space.shard(shard).records)

    async def record(self, shard: str, id: str) -> bytes | None:
        """One record of a shard."""
        await _turn()
        of = self._space.shard(shard)
        return (of.tasks if is_task(id) else of.records).get(id)

    async def tasks(self, shard: str) -> dict[str, bytes]:
        """All records of a shard's tasks."""
        await _turn()
        return dict(self._space.shard(shard).tasks)

    async def dead(self, shard: str, count: int, before: str = "", since: str = "") -> list[tuple[str, bytes]]:
        """The newest dead letters of a shard within bounds, newest first, with their stream ids."""
        await _turn()
        return self._space.shard(shard).dead(count, before, since)

    async def dead_at(self, shard: str, ids: Sequence[str]) -> list[tuple[str, bytes]]:
        """The dead letters of these stream ids."""
        await _turn()
        letters = self._space.shard(shard).letters
        return [(id, letters[id]) for id in ids if id in letters]

    async def replay(self, shard: str, letters: Sequence[tuple[str, bytes]], max_depth: int) -> list[ReplayStatus]:
        """Make dead letters messages again, each once."""
        await _turn()
        now = self._server.now()
        return [self._home(shard).replay(shard, letter, max_depth, now) for letter in letters]

    async def drop(self, shard: str, ids: Sequence[str]) -> list[bool]:
        """Forget dead letters; False for one that does not exist."""
        await _turn()
        return [self._space.shard(shard).drop(id) for id in ids]

    def _home(self, inbox: str) -> MemoryShard:
        """The shard of an inbox."""
        return self._space.shard(split(inbox)[0])


async def _turn() -> None:
    """Let the event loop turn once: whoever waits for a broker's answer lets others run meanwhile."""
    await asyncio.sleep(0)


async def _set_before(deadline: float, event: asyncio.Event) -> bool:
    """Wait until the event is set; False if it is not at `deadline` (the loop's time)."""
    try:
        async with asyncio.timeout_at(deadline):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _sorted(members: Mapping[str, tuple[int, bytes]]) -> list[Member]:
    return [Member(process, info) for process, (_, info) in sorted(members.items())]


__all__ = ["MemoryBroker", "MemoryServer"]
