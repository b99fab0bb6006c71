"""What is held back, and how much may run: of an agent, of a type, of a worker.

    pause, quarantine --> the agent's record, or `$type/<type>` in each agents' shard --> nothing of it is begun
    drain             --> the same, once what was sent before has been handled
    limit             --> `$type/<type>`: each worker takes its share of it
    resume            --> the record again

All of it is asked of the shards' owners (`$hold`), who write it down in the call that ends the request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from swell.errors import WrongBody
from swell.keys import SEGMENT
from swell.where import Where

HoldState = Literal["paused", "quarantined"]
Action = Literal["pause", "resume", "drain", "quarantine", "limit"]

#: The record of a type begins with this; what follows is its name.
TYPE_PREFIX = "$type/"
#: The fact of a worker that is to own nothing begins with this.
WORKER_PREFIX = "$worker/"
#: Whoever pauses a worker holds this lock, so that not all of them are paused at once.
WORKERS_LOCK = "$workers"
#: How long the fact of a worker stays that does not renew it, seconds.
WORKER_HOLD_S = 86_400.0
#: Agents that the answer of one shard names.
MOST_NAMED = 10_000
MOST_CONCURRENCY = 1_000_000
MOST_RATE = 10_000_000.0
#: Characters of a reason.
MOST_REASON = 1_000


class Hold(Struct, omit_defaults=True):
    """Why nothing of an agent is begun.

    Attributes:
        state: paused, or quarantined.
        reason: for people.
        since_ms: since when, milliseconds since 1970.
    """

    state: HoldState
    reason: str = ""
    since_ms: int = 0


class TypeRecord(Struct, omit_defaults=True):
    """What a shard keeps of a type, under `$type/<type>`.

    Attributes:
        hold: whether nothing of the type is begun in this shard.
        concurrency: agents that may be in a handler at one moment, in the fleet; 0: any number; None: as declared.
        rate: messages that may be begun in a second, in the fleet; likewise.
        limited_ms: when the limits were given, by the clock of whoever gave them, milliseconds since 1970.
    """

    hold: Hold | None = None
    concurrency: int | None = None
    rate: float | None = None
    limited_ms: int = 0


class HoldRequest(Struct, omit_defaults=True):
    """Body of `$hold`, sent to the shard of an agent, or to every agents' shard for a type.

    Attributes:
        action: what is wanted.
        agent: of one agent; or
        type: of all agents of a type.
        reason: for people.
        where: to quarantine only agents whose view (`swell.AgentView`) this holds for.
        all: to resume a type's agents that are held themselves, too.
        concurrency: to limit; None leaves it as it is, 0 lifts it.
        rate: likewise.
        reset: to limit as the class declares.
        at_ms: when it was asked for, milliseconds since 1970.
    """

    action: Action
    agent: str = ""
    type: str = ""
    reason: str = ""
    where: Where | None = None
    all: bool = False
    concurrency: int | None = None
    rate: float | None = None
    reset: bool = False
    at_ms: int = 0


class HoldAnswer(Struct, omit_defaults=True):
    """The reply to `$hold`: how many agents it was about, and (of a quarantine) the first 10,000 of them."""

    count: int = 0
    agents: list[str] = []


class WorkerHold(Struct, omit_defaults=True):
    """The fact of a worker that is to own no shard.

    Attributes:
        reason: for people.
        since_ms: since when, milliseconds since 1970.
        vacant: whether it owns none any more; written by the worker.
    """

    reason: str = ""
    since_ms: int = 0
    vacant: bool = False


class TypeView(Struct):
    """A type that is held or limited at run time, as people see it.

    Attributes:
        paused: shards in which nothing of it is begun, of `shards`; they differ while a request is under way.
        concurrency: None: as its class declares; 0: none.
        rate: likewise.
    """

    type: str
    paused: int
    shards: int
    reason: str = ""
    since_ms: int = 0
    concurrency: int | None = None
    rate: float | None = None


def check_scope(**scopes: str) -> None:
    """Check that exactly one of these is given, and may be one.

    Raises:
        WrongBody: which is wrong.
    """
    given = {name: value for name, value in scopes.items() if value}
    if len(given) != 1:
        raise WrongBody("", f"give exactly one of {', '.join(scopes)}", field=next(iter(scopes)))
    ((name, value),) = given.items()
    if name == "type":
        check_type(value)
    elif name == "agent":
        type, slash, key = value.partition("/")
        if not (slash and SEGMENT.match(type) and SEGMENT.match(key)):
            raise WrongBody("", f"agent: {value!r} is not 'type/key'", field="agent")


def check_type(type: str) -> str:
    """Return what may be a type.

    Raises:
        WrongBody: it cannot be one.
    """
    if not SEGMENT.match(type):
        raise WrongBody("", f"type: {type!r} is not 1 to 128 letters, digits, '.', '_' or '-'", field="type")
    return type


def check_reason(reason: str) -> str:
    """Return what may be a reason.

    Raises:
        WrongBody: it is too long.
    """
    if len(reason) > MOST_REASON:
        raise WrongBody("", f"reason: {len(reason)} characters are more than {MOST_REASON}", field="reason")
    return reason


def problem_with(concurrency: int | None, rate: float | None) -> tuple[str, str]:
    """Which limit cannot be one, and why; ("", "") if both can."""
    if concurrency is not None and not (isinstance(concurrency, int) and 0 <= concurrency <= MOST_CONCURRENCY):
        return "concurrency", f"{concurrency!r} is not a whole number between 0 (no limit) and {MOST_CONCURRENCY:,}"
    if rate is not None and not (math.isfinite(rate) and 0 <= rate <= MOST_RATE):
        return "rate", f"{rate:g} is not between 0 (no limit) and {MOST_RATE:,.0f} messages a second"
    return "", ""


def types_in(records: Mapping[str, bytes]) -> dict[str, bytes]:
    """The records of types among those of a shard, by the type's name."""
    return {id.removeprefix(TYPE_PREFIX): one for id, one in records.items() if id.startswith(TYPE_PREFIX)}
