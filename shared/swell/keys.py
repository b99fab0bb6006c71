"""Every key that Swell uses in Redis.

A shard's keys share one hash tag, so that a Redis Cluster keeps them in one slot:

    swell:{ns}:{{k}}:inbox        stream: the unsettled entries, one batch each (fields `n`, `b`)
    swell:{ns}:{{k}}:lease        hash: owner, epoch, token, expires (server time, ms), ttl (ms), group, settlement
    swell:{ns}:{{k}}:ledger       hash of counters: sent, acked, dead, expired, duplicate, depth, ...
    swell:{ns}:{{k}}:producer:*   string: last sequence number of that producer (expires a day after its last use)
    swell:{ns}:{{k}}:line         string: the producers that wait for room, in order (expires 2 s after the last asked)
    swell:{ns}:{{k}}:partial      hash: entry id -> what of it is settled already
    swell:{ns}:{{k}}:deliveries   hash: entry id -> how many owners died holding it, and the trials of its messages
    swell:{ns}:{{k}}:agents       hash: record id -> record (an agent, a plan, a snapshot)
    swell:{ns}:{{k}}:tasks        hash: the same of tasks, and of outcomes on their way to a task's home
    swell:{ns}:{{k}}:due          sorted set: messages that wait for their time -> when (server time, ms)
    swell:{ns}:{{k}}:later        hash: the same -> what they are
    swell:{ns}:{{k}}:dead         stream of dead letters, the newest 10,000
    swell:{ns}:{{k}}:facts:*      shared facts, locks and barriers; see `FactKeys`

`inbox`, `producer:*`, `line`, `partial` and `deliveries` are those of normal messages; for each other priority there
are the same with its name behind them, `inbox:critical` (see `swell.priority`).

And, outside the shards:

    swell:{ns}:meta               hash: number of shards, schema
    swell:{ns}:members:{role}     sorted set: process -> when its heartbeat lapses (server time, ms)
    swell:{ns}:info:{role}        hash: process -> what it says of itself
    swell:{ns}:replies:{process}  stream of replies to that process (expires a minute after its last renewal)
"""

from __future__ import annotations

import re
from zlib import crc32

from swell.errors import ConfigError
from swell.priority import split

CONTROL = "control"
METRICS = "metrics"

#: One segment of an agent id, a namespace or a type: what is safe in keys, paths and labels alike.
SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


def shard_of(agent: str, shards: int) -> int:
    """The shard that an agent lives in: CRC-32 of its id, modulo the number of shards.

    CRC-32 is linear, so ids that count upwards spread almost evenly: 1,000 ids over 8 shards differ by 2.
    """
    return crc32(agent.encode()) % shards


#: What follows an agent's id in the id of its state's record; it occurs in no id.
_STATE = "#state"


def state_id(agent: str) -> str:
    """The id of the record that holds an agent's kept state."""
    return agent + _STATE


def is_task(record: str) -> bool:
    """Whether a record's id is a task's, or an outcome's: those are kept apart."""
    return record.startswith("$task")


def is_agent(record: str) -> bool:
    """Whether a record's id is an agent's: not a kept state's, nor one of the system's own, which begin with `$`."""
    return not record.startswith("$") and not record.endswith(_STATE)


def check_namespace(namespace: str) -> str:
    """Return `namespace` if it may be one.

    Raises:
        ConfigError: it has other characters than letters, digits, `.`, `_` and `-`, or more than 128.
    """
    if not SEGMENT.match(namespace):
        raise ConfigError(
            "namespace",
            f"{namespace!r} must be 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        )
    return namespace


class ShardKeys:
    """The keys of one inbox and of its shard, as bytes, made once.

    Those of a shard's inboxes differ in what is the inbox's own.
    """

    __slots__ = (
        *("_suffix", "agents", "dead", "deliveries", "due", "inbox", "later", "lease", "ledger", "line", "name"),
        *("partial", "prefix", "tasks"),
    )

    def __init__(self, namespace: str, name: str) -> None:
        self.name = name
        shard, priority = split(name)
        suffix = self._suffix = f":{priority}".encode() if priority else b""
        self.prefix = f"swell:{namespace}:{{{shard}}}:".encode()
        self.inbox = self.prefix + b"inbox" + suffix
        self.lease = self.prefix + b"lease"
        self.ledger = self.prefix + b"ledger"
        self.line = self.prefix + b"line" + suffix
        self.partial = self.prefix + b"partial" + suffix
        self.deliveries = self.prefix + b"deliveries" + suffix
        self.agents = self.prefix + b"agents"
        self.tasks = self.prefix + b"tasks"
        self.dead = self.prefix + b"dead"
        self.due = self.prefix + b"due"
        self.later = self.prefix + b"later"

    def producer(self, producer: str) -> bytes:
        """The key that holds a producer's last sequence number."""
        return self.prefix + b"producer:" + producer.encode() + self._suffix


class FactKeys:
    """The keys of one shard's facts, locks and barriers; bus/functions/{facts,holds,barrier}.lua say what each is.

    swell:{ns}:{{k}}:facts:data, names, due, changes, meta              the facts of the shard
    swell:{ns}:{{k}}:facts:turns, locks                                 its locks and barriers; expire unused
    swell:{ns}:{{k}}:facts:held:*, line:*, seats:*                      of one lock; expire unused
    swell:{ns}:{{k}}:facts:arrived:*, passed:*, parties:*               of one barrier; expire unused
    """

    __slots__ = ("_prefix", "all", "changes", "data", "locks", "meta", "names", "turns")

    def __init__(self, namespace: str, name: str) -> None:
        prefix = self._prefix = f"swell:{namespace}:{{{name}}}:facts:".encode()
        self.data = prefix + b"data"
        self.names = prefix + b"names"
        self.changes = prefix + b"changes"
        self.meta = prefix + b"meta"
        self.turns = prefix + b"turns"
        self.locks = prefix + b"locks"
        self.all = (self.data, self.names, prefix + b"due", self.changes, self.meta)

    def seats(self, name: str) -> tuple[bytes, bytes, bytes]:
        """Who holds a lock, who waits for it, and the rest of it."""
        of, encoded = self._prefix, name.encode()
        return of + b"held:" + encoded, of + b"line:" + encoded, of + b"seats:" + encoded

    def barrier(self, name: str) -> tuple[bytes, bytes, bytes]:
        """Who has come to a barrier, who has passed it, and for how many it waits."""
        of, encoded = self._prefix, name.encode()
        return of + b"arrived:" + encoded, of + b"passed:" + encoded, of + b"parties:" + encoded


class Keys:
    """All keys of one namespace.

    Raises:
        ConfigError: the namespace is malformed.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = check_namespace(namespace)
        self._shards: dict[str, ShardKeys] = {}
        self._facts: dict[str, FactKeys] = {}
        self.meta = f"swell:{namespace}:meta".encode()

    def shard(self, name: str) -> ShardKeys:
        """The keys of an inbox ("0.critical"), or of a shard with its inbox of normal messages ("0", "control")."""
        keys = self._shards.get(name)
        if keys is None:
            keys = self._shards[name] = ShardKeys(self.namespace, name)
        return keys

    def facts(self, name: str) -> FactKeys:
        """The keys of the facts of shard `name`."""
        keys = self._facts.get(name)
        if keys is None:
            keys = self._facts[name] = FactKeys(self.namespace, name)
        return keys

    def members(self, role: str) -> bytes:
        """The heartbeats of all processes of one role."""
        return f"swell:{self.namespace}:members:{role}".encode()

    def info(self, role: str) -> bytes:
        """What the processes of one role say of themselves."""
        return f"swell:{self.namespace}:info:{role}".encode()

    def replies(self, process: str) -> bytes:
        """The stream of replies to one process."""
        return f"swell:{self.namespace}:replies:{process}".encode()
