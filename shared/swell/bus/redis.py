"""The broker on Redis 7.0 and newer, or Valkey 8 and newer, through `redis.asyncio` connections."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from swell.bus.broker import (
    Append,
    Appended,
    AppendStatus,
    Delivered,
    Glance,
    Inheritance,
    Lease,
    LeaseState,
    Ledger,
    Left,
    Member,
    Refused,
    Settlement,
)
from swell.bus.condition import SECTIONS, trouble_in
from swell.bus.durability import CONFIRM_MS, Confirmation
from swell.bus.facts_redis import FactsOnRedis
from swell.bus.functions import LIBRARY
from swell.bus.layout import counted, delivered, pack_settlement, pack_timed, pairs, partial
from swell.bus.link import FunctionsGone, Link
from swell.bus.loading import load_functions
from swell.bus.redis_records import RedisRecords
from swell.bus.redis_timed import RedisTimed
from swell.bus.waiting_read import WaitingRead, block
from swell.config import unsafe
from swell.errors import BrokerRefused, BrokerUnavailable, GroupGone
from swell.keys import Keys, ShardKeys
from swell.priority import PRIORITIES, inboxes, split
from swell.wire import SCHEMA

log = logging.getLogger(__name__)

#: A producer's last sequence number is remembered this long after its last use, seconds.
REMEMBER_PRODUCER_S = 86_400
#: What the field `n` of an entry that an append wrote looks like; a stranger's may be anything.
_STATUS: tuple[AppendStatus, ...] = ("ok", "duplicate", "busy", "gap")


class RedisBroker(RedisTimed, RedisRecords, FactsOnRedis):
    """A process's connections to one server: one each for appends, settles, leases, replies, queries, and reads.

    Reads of each priority have one of their own, which is made when it is first used.

    Args:
        url: redis://, rediss:// or unix://.
        namespace: the tenant's prefix.
        process: shown in CLIENT LIST.
        durability: what an append and a grant of a lease wait for: `local`, `fsync` or `replicas:N`; see `Settings`.
    """

    def __init__(self, url: str, namespace: str, process: str = "", durability: str = "local") -> None:
        self._confirmation = Confirmation(durability)
        self._keys = Keys(namespace)
        self._url = url
        self._label = process or "client"
        self._links: dict[str, Link] = {}
        self._reads: dict[str, WaitingRead] = {}

    def _link(self, purpose: str) -> Link:
        link = self._links.get(purpose)
        if link is None:
            # All that we write may be repeated (see the functions); a read may not: what it delivered is pending then.
            # A fact's write is repeated by its caller, who says so to the function.
            name = f"swell:{self._label}:{purpose}"
            repeatable = purpose != "facts" and not purpose.startswith("read")
            link = self._links[purpose] = Link(self._url, name, repeatable=repeatable)
        return link

    def _waiting_read(self, purpose: str) -> WaitingRead:
        read = self._reads.get(purpose)
        if read is None:
            read = self._reads[purpose] = WaitingRead(self._link(purpose), self._link("query"))
        return read

    async def _function(self, purpose: str, name: str, keys: Sequence[bytes], args: Sequence[Any]) -> Any:
        """Call one of our functions; a server that lost the library gets it again."""
        command = ("FCALL", f"{LIBRARY}_{name}", len(keys), *keys, *args)
        try:
            return await self._link(purpose).call(*command)
        except FunctionsGone:
            await self._load_functions()
            return await self._link(purpose).call(*command)

    async def _confirmed(self, purpose: str, name: str, keys: Sequence[bytes], args: Sequence[Any]) -> Any:
        """Call a function whose effect must be as durable as the settings ask; repeating it is safe.

        Raises:
            BrokerUnavailable: it is not that durable yet.
        """
        confirmation = self._confirmation
        if not confirmation.command:
            return await self._function(purpose, name, keys, args)
        commands = [("FCALL", f"{LIBRARY}_{name}", len(keys), *keys, *args), confirmation.command]
        try:
            answer, count = await self._link(purpose).calls(commands, wait_s=CONFIRM_MS / 1000)
        except FunctionsGone:
            await self._load_functions()
            answer, count = await self._link(purpose).calls(commands, wait_s=CONFIRM_MS / 1000)
        confirmation.check(count)
        return answer

    async def open(self, shards: int) -> int:
        """See `Broker.open`."""
        await self._load_functions()
        if self._url.startswith("rediss:") and (weakness := unsafe(self._url)):
            log.warning("TLS is not safe: %s", weakness)
        link = self._link("query")
        await self._confirmation.probe(link)
        await link.call("HSETNX", self._keys.meta, "shards", shards)
        await link.call("HSETNX", self._keys.meta, "schema", SCHEMA)
        existing, schema = await link.call("HMGET", self._keys.meta, "shards", "schema")
        if int(schema) != SCHEMA:
            raise BrokerRefused(
                f"namespace {self._keys.namespace} has schema {int(schema)}; this release reads {SCHEMA}"
            )
        return int(existing)

    async def _load_functions(self) -> None:
        await load_functions(self._link("query"))

    async def close(self) -> None:
        """See `Broker.close`."""
        for link in self._links.values():
            await link.close()

    async def ping(self) -> float:
        """See `Broker.ping`."""
        began = time.monotonic()
        await self._link("query").call("PING")
        return time.monotonic() - began

    async def trouble(self) -> str:
        """See `Broker.trouble`."""
        try:
            info: bytes = await self._link("query").call("INFO", *SECTIONS)
        except BrokerRefused:
            return ""  # We may not ask; `swell doctor` says so.
        return trouble_in(info.decode(errors="replace"))

    async def memory(self) -> tuple[int, int]:
        """See `Broker.memory`."""
        try:
            info: bytes = await self._link("query").call("INFO", "memory")
        except BrokerRefused:
            return 0, 0
        fields = dict(line.partition(":")[::2] for line in info.decode(errors="replace").splitlines())
        return int(fields.get("used_memory", 0)), int(fields.get("maxmemory", 0))

    async def append(self, producer: str, appends: Sequence[Append], max_depth: int) -> list[Appended]:
        """See `Broker.append`."""
        keys: list[bytes] = []
        places: dict[str, int] = {}
        args: list[Any] = [max_depth, REMEMBER_PRODUCER_S]
        for append in appends:
            place = places.get(append.shard)
            if place is None:
                place = places[append.shard] = len(places) + 1
                of = self._keys.shard(append.shard)
                keys += (of.inbox, of.ledger, of.producer(producer), of.line)
            args += (place, append.seq, append.count, append.payload)
        answer = await self._confirmed("append", "append", keys, args)
        return [Appended(_STATUS[answer[i]], answer[i + 1]) for i in range(0, len(answer), 2)]

    async def acquire(self, shard: str, owner: str, lease_ms: int) -> Lease | Refused:
        """See `Broker.acquire`."""
        of = self._keys.shard(shard)
        token = secrets.token_hex(8)
        own = [key for each in self._inboxes(shard) for key in (each.inbox, each.deliveries)]
        answer = await self._confirmed("lease", "acquire", (of.lease, of.ledger, *own), (owner, token, lease_ms))
        if answer[0] == 1:
            return Lease(shard, owner, int(answer[1]), token)
        return Refused(shard, answer[1].decode(), int(answer[2]))

    def _inboxes(self, shard: str) -> list[ShardKeys]:
        return [self._keys.shard(inbox) for inbox in inboxes(shard)]

    async def inherit(self, lease: Lease) -> Inheritance:
        """See `Broker.inherit`."""
        names = inboxes(lease.shard)
        home = self._keys.shard(lease.shard)
        commands = [("HGETALL", home.agents), ("HGETALL", home.tasks)]
        for of in map(self._keys.shard, names):
            commands += [("HGETALL", of.partial), ("HGETALL", of.deliveries)]
        records, tasks, *left = await self._link("lease").calls(commands)
        found = {}
        for name, (halves, deliveries) in zip(names, pairs(left), strict=True):
            found[name] = Left(
                {k.decode(): partial(v) for k, v in pairs(halves)},
                {k.decode(): int(v.partition(b";")[0]) for k, v in pairs(deliveries)},
            )
        normal = found.pop(lease.shard)
        return Inheritance({k.decode(): v for k, v in pairs([*records, *tasks])}, *normal, found)

    async def trial(self, lease: Lease, id: str, index: int, *, begin: bool = True) -> int:
        """See `Broker.trial`."""
        of = self._keys.shard(lease.shard)
        args = (lease.epoch, lease.token, id, index, int(begin))
        return int(await self._function("lease", "trial", (of.lease, of.deliveries), args))

    async def renew(self, leases: Sequence[Lease], lease_ms: int) -> list[bool]:
        """See `Broker.renew`."""
        keys = [self._keys.shard(lease.shard).lease for lease in leases]
        args: list[Any] = [lease_ms]
        for lease in leases:
            args += (lease.epoch, lease.token)
        return [bool(ok) for ok in await self._function("lease", "renew", keys, args)]

    async def release(self, lease: Lease) -> bool:
        """See `Broker.release`."""
        of = self._keys.shard(lease.shard)
        keys = (of.lease, *(each.inbox for each in self._inboxes(lease.shard)))
        return bool(await self._function("lease", "release", keys, (lease.epoch, lease.token)))

    async def read(self, owner: str, inboxes: Sequence[str], count: int, block_ms: int) -> list[Delivered]:
        """See `Broker.read`."""
        keys = [self._keys.shard(inbox).inbox for inbox in inboxes]
        answer = await self._waiting_read(_reading(inboxes[0])).call(
            *("XREADGROUP", "GROUP", owner, "c", "COUNT", count, *block(block_ms), "STREAMS"),
            *keys,
            *(b">",) * len(keys),
            block_ms=block_ms,
        )
        if not answer:
            return []
        names = dict(zip(keys, inboxes, strict=True))
        return [delivered(names[key], entry) for key, entries in answer for entry in entries]

    async def wake(self) -> None:
        """See `Broker.wake`."""
        for purpose in [purpose for purpose in self._reads if purpose.startswith("read")]:
            await self._waiting_read(purpose).wake()

    async def pending(self, owner: str, inbox: str, after: str, count: int) -> list[Delivered]:
        """See `Broker.pending`."""
        key = self._keys.shard(inbox).inbox
        link = self._link(_reading(inbox))
        answer = await link.call("XREADGROUP", "GROUP", owner, "c", "COUNT", count, "STREAMS", key, after)
        return [delivered(inbox, entry) for _, entries in answer or () for entry in entries]

    async def fetch(self, inbox: str, ids: Sequence[str]) -> list[Delivered]:
        """See `Broker.fetch`."""
        key = self._keys.shard(inbox).inbox
        answers = await self._link("fetch").calls([("XRANGE", key, id, id) for id in ids])
        return [delivered(inbox, entry) for entries in answers for entry in entries]

    async def settle(
        self, settlements: Sequence[Settlement], replies: Mapping[str, bytes] | None = None
    ) -> tuple[list[bool], int]:
        """See `Broker.settle`."""
        commands: list[tuple[Any, ...]] = []
        # What waits for its time is stored with all that its shard's owner has to write: that is a call of its own.
        timed = {settlement.lease.shard for settlement in settlements if settlement.timed}
        plain = [settlement for settlement in settlements if settlement.lease.shard not in timed]
        parts = [plain] if plain else []
        if plain:
            keys, args = self._pack(plain)
            commands.append(("FCALL", f"{LIBRARY}_settle", len(keys), *keys, *args))
        for shard in timed:
            parts.append([one for one in settlements if one.lease.shard == shard])
            keys, args = self._pack(parts[-1], timed=True)
            commands.append(("FCALL", f"{LIBRARY}_settle_timed", len(keys), *keys, *args))
        if replies:
            streams = list(map(self._keys.replies, replies))
            commands.append(("FCALL", f"{LIBRARY}_reply", len(streams), *streams, *replies.values()))
        try:
            answers = await self._link("settle").calls(commands)
        except FunctionsGone:
            await self._load_functions()
            answers = await self._link("settle").calls(commands)
        found: dict[int, bool] = {}
        for together, answer in zip(parts, answers, strict=False):
            found.update(zip(map(id, together), map(bool, answer), strict=True))
        return [found[id(settlement)] for settlement in settlements], int(answers[-1]) if replies else 0

    def _pack(self, settlements: Sequence[Settlement], *, timed: bool = False) -> tuple[list[bytes], list[Any]]:
        """The keys and arguments of a call that writes these."""
        keys: list[bytes] = []
        args: list[Any] = []
        for settlement in settlements:
            of = self._keys.shard(settlement.inbox or settlement.lease.shard)
            keys += (of.inbox, of.lease, of.ledger, of.partial, of.deliveries, of.agents, of.dead, of.tasks)
            pack_settlement(settlement, args)
            if timed:
                keys += (of.due, of.later)
                pack_timed(settlement, args)
        return keys, args

    async def open_replies(self, process: str, ttl_ms: int) -> bool:
        """See `Broker.open_replies`."""
        key = self._keys.replies(process)
        link = self._link("query")
        if await link.call("PEXPIRE", key, ttl_ms):
            return False
        await link.calls([("XGROUP", "CREATE", key, "made", "0", "MKSTREAM"), ("PEXPIRE", key, ttl_ms)])
        return True

    async def read_replies(self, process: str, after: str, block_ms: int) -> list[tuple[str, bytes]]:
        """See `Broker.read_replies`."""
        key = self._keys.replies(process)
        read = ("XREAD", "COUNT", 256, *block(block_ms), "STREAMS", key, after)
        commands: list[tuple[Any, ...]] = [read, ("EXISTS", key)]
        if after != "0":
            milliseconds, _, number = after.partition("-")
            commands.insert(0, ("XTRIM", key, "MINID", f"{milliseconds}-{int(number) + 1}"))
        *_, answer, there = await self._link("replies").calls(commands, wait_s=block_ms / 1000)
        if not there:
            raise GroupGone(f"the reply stream of {process} is gone")
        return [(entry[0].decode(), entry[1][1]) for _, entries in answer or () for entry in entries]

    async def heartbeat(self, role: str, process: str, ttl_ms: int, info: bytes) -> list[Member]:
        """See `Broker.heartbeat`."""
        keys = (self._keys.members(role), self._keys.info(role))
        answer = await self._function("lease", "heartbeat", keys, (process, ttl_ms, info))
        return [Member(name.decode(), said) for name, said in pairs(answer)]

    async def members(self, role: str) -> list[Member]:
        """See `Broker.members`."""
        keys = (self._keys.members(role), self._keys.info(role))
        return [Member(name.decode(), said) for name, said in pairs(await self._function("query", "members", keys, ()))]

    async def leases(self, shards: Sequence[str]) -> list[LeaseState]:
        """See `Broker.leases`."""
        answer = await self._function("lease", "leases", [self._keys.shard(shard).lease for shard in shards], ())
        return [
            LeaseState(shard, owner.decode(), int(epoch), int(left))
            for shard, (owner, epoch, left) in zip(shards, answer, strict=True)
        ]

    async def ledger(self, shard: str) -> Ledger:
        """See `Broker.ledger`."""
        of = self._keys.shard(shard)
        own = [key for each in self._inboxes(shard) for key in (each.inbox, each.partial)]
        answer = await self._function("query", "audit", (of.ledger, *own), ())
        return Ledger(shard, present=answer[0], entries=answer[1], **counted(answer[2:]))

    async def glance(self, shards: Sequence[str]) -> list[Glance]:
        """See `Broker.glance`."""
        keys: list[bytes] = []
        for of in map(self._keys.shard, shards):
            keys += (of.lease, of.ledger, *(each.inbox for each in self._inboxes(of.name)))
        found = []
        for shard, answer in zip(
            shards, await self._function("query", "glance", keys, (len(PRIORITIES),)), strict=True
        ):
            oldest, owner, left, held = int(answer[0]), answer[1].decode(), int(answer[2]), int(answer[3])
            ledger = Ledger(shard, **counted(answer[4:]))
            found.append(Glance(ledger, oldest if oldest >= 0 else None, owner, left, held))
        return found


def _reading(inbox: str) -> str:
    """The connection by which an inbox is read: that of its priority."""
    _, priority = split(inbox)
    return f"read:{priority}" if priority else "read"


__all__ = ["BrokerUnavailable", "RedisBroker"]
