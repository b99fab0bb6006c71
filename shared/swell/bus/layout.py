"""How the server's functions lay out what they take and answer, as values of `swell.bus.broker` and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from swell.bus.broker import Delivered, Ledger, Partial, Settlement

_COUNT = re.compile(rb"[1-9][0-9]{0,5}")
#: What the ledger's hash counts, as far as this release knows.
COUNTED = {field.name for field in fields(Ledger)} - {"shard", "present", "entries"}


def pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """[a, b, c, d] as [(a, b), (c, d)], the shape of hashes in RESP2."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def counted(flat: Sequence[Any]) -> dict[str, int]:
    """What a ledger's hash counts; a newer release may count more than we know of."""
    counters = {name.decode(): int(value) for name, value in pairs(flat)}
    return {name: counters[name] for name in counters.keys() & COUNTED}


def partial(value: bytes) -> Partial:
    """What `settle` recorded of an entry that is settled in part."""
    acked, dead, expired, bitmap = value.split(b":", 3)
    return Partial(int(acked), int(dead), int(expired), bitmap)


def delivered(shard: str, entry: Sequence[Any]) -> Delivered:
    """One entry of a stream's reply. Fields written by a stranger may be missing, or of any content."""
    id, fields = entry
    found = dict(pairs(fields or ()))
    count = found.get(b"n", b"")
    return Delivered(shard, id.decode(), int(count) if _COUNT.fullmatch(count) else 0, found.get(b"b", b""))


def pack_settlement(settlement: Settlement, args: list[Any]) -> None:
    """Lay a settlement out as settle.lua reads it."""
    lease = settlement.lease
    args += (lease.epoch, lease.token, lease.owner, settlement.seq, len(settlement.outcomes))
    for outcome in settlement.outcomes:
        letters = outcome.letters
        args += (outcome.id, 1 if outcome.done else 0, outcome.acked, outcome.dead, outcome.expired)
        args += (outcome.bitmap, len(letters), *letters)
    args.append(len(settlement.records))
    for id, record in settlement.records.items():
        args += (id, 0, b"") if record is None else (id, 1, record)


def pack_timed(settlement: Settlement, args: list[Any]) -> None:
    """Lay out what a settlement stores and removes of messages that wait for their time, as due.lua reads it."""
    args.append(len(settlement.timed))
    for id, timed in settlement.timed.items():
        args += (id, 0, 0, b"") if timed is None else (id, 1, timed.due_ms, timed.value)
