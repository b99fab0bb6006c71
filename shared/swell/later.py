"""Messages for later, as they travel to the owner of their agent's shard and as they wait there.

    send(delay=, at=) / schedule() --$later--> the shard's owner --stored beside the shard--> due --> the agent's inbox

The moment of a delay is counted from when the server took the message, by the server's clock.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Raw, Struct, structs

from swell.bus.timed import AGAIN, KINDS, ONCE, Timed
from swell.codec import decode, encode
from swell.cron import Cron
from swell.errors import WireError, WrongBody
from swell.expiry import MOST_S, moment_us
from swell.gather import Terms
from swell.keys import SEGMENT
from swell.priority import Priority
from swell.wire import ID_HEADER, SCHEMA, TAKEN_HEADER, Batch, Series, one_body

#: Who appended the entry of a message that waited; it has no sequence of its own.
PRODUCER = "later"
#: The shortest interval of a recurring message, milliseconds.
LEAST_EVERY_MS = 1000
#: No time that is reckoned with lies beyond the year 2286, so that every sum of them is a whole number everywhere.
Milliseconds = Annotated[int, Meta(ge=0, le=10**13)]
Moment = Annotated[int, Meta(ge=0, le=10**16)]


class Later(Struct, omit_defaults=True):
    """Body of `$later`, sent to a shard's owner: send this message when its time has come.

    Of the four times, `at_ms`, `cron` or `every_ms` is given, or `delay_ms`, which may be 0.

    Attributes:
        to: an agent of that shard; `name`, `body` and `sender` are the message's.
        id: takes the place of what waits for the same agent under the same id; "" for none.
        schedule: whether it is one of the schedules; `id` is its name then.
        ttl_us: the message expires so long after it was due, microseconds; 0 for never, or at `until_us`.
        until_us: when it expires, microseconds since 1970.
        at_ms: when it is due, milliseconds since 1970.
        delay_ms: how long after the server took it.
        every_ms: the interval, milliseconds; the first time is one interval after the server took it.
        cron: the cron line.
        priority: of the message; the request has the same.
    """

    to: str
    name: str
    body: Raw
    sender: str = ""
    id: str = ""
    schedule: bool = False
    ttl_us: Moment = 0
    until_us: Moment = 0
    at_ms: Milliseconds = 0
    delay_ms: Milliseconds = 0
    every_ms: Milliseconds = 0
    cron: str = ""
    priority: Priority = "normal"


class Unschedule(Struct):
    """Body of `$unschedule`, sent to a shard's owner: forget a schedule."""

    to: str
    id: str


class Cancel(Struct, omit_defaults=True):
    """Body of `$cancel`, sent to a shard's owner: end a message of an agent, by its id, or a call by its caller.

    Attributes:
        to: the agent.
        id: what the message was given as `id`; "" for a call.
        process: the process that waits for the call, and `call` its number.
    """

    to: str
    id: str = ""
    process: str = ""
    call: int = 0


class Scheduled(Struct, omit_defaults=True):
    """One message that waits for its time, as people see it.

    Attributes:
        due_ms: when, milliseconds since 1970.
        id: the name of a schedule, or the id that a message was given.
        schedule: whether it is a schedule.
        every_s: its interval, seconds; 0 if it has none.
        cron: its cron line, or "".
    """

    to: str
    name: str
    due_ms: int
    id: str = ""
    schedule: bool = False
    every_s: float = 0.0
    cron: str = ""


def check_name(field: str, name: str) -> str:
    """Return what may name a schedule or a message.

    Raises:
        WrongBody: it is not 1 to 128 letters, digits, `.`, `_` or `-`, beginning with a letter or digit.
    """
    if not isinstance(name, str) or not SEGMENT.match(name):
        problem = "must be 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
        raise WrongBody("", f"{field}: {name!r} {problem}", field=field)
    return name


def due_at(later: Later, delay: float | None, at: datetime | None) -> Later:
    """Give a message for later the delay (seconds) or the moment at which it is due.

    Raises:
        WrongBody: both are given, the delay is negative or longer than ten years, or the moment has no time zone.
    """
    if delay is not None and at is not None:
        raise WrongBody("", "give delay or at, not both", field="delay")
    if at is not None:
        later.at_ms = max(1, moment_us("at", at) // 1000)
    elif delay is not None:
        if not 0 <= delay <= MOST_S:
            problem = f"delay: {delay:g} must be 0 or more, and at most {MOST_S:.0f} seconds"
            raise WrongBody("", problem, field="delay")
        later.delay_ms = round(delay * 1000)
    return later


def for_later(
    message: tuple[str, str, Raw],
    when: tuple[float | None, datetime | None],
    terms: Terms,
    priority: Priority = "normal",
) -> Later:
    """A single message for later.

    Args:
        message: the agent, the handler, the body encoded.
        when: the delay (seconds), or the moment.
        terms: who sends it; when it expires, where a span counts from when it is due; its id.
        priority: of the message.

    Raises:
        WrongBody: see `due_at`.
    """
    later = due_at(Later(*message, terms.sender, terms.id, priority=priority), *when)
    if terms.expiry is not None:
        later.ttl_us, later.until_us = terms.expiry
    return later


def key_of(later: Later, otherwise: str) -> str:
    """The id under which it waits; one that has none of its own is called by its place in the stream."""
    if not later.id:
        return f"m/{otherwise}"
    return schedule_key(later.to, later.id) if later.schedule else message_key(later.to, later.id)


def message_key(to: str, id: str) -> str:
    """The id under which a message waits that was given one."""
    return f"m/{to}/{id}"


def schedule_key(to: str, name: str) -> str:
    """The id under which a schedule waits."""
    return f"s/{to}/{name}"


def first_ms(later: Later, taken_ms: int) -> int:
    """When it is due (first), milliseconds since 1970.

    Args:
        later: it.
        taken_ms: when the server took it.

    Raises:
        WrongBody: its cron line is none.
    """
    if later.cron or later.every_ms:
        return next_ms(later, taken_ms, taken_ms)
    return later.at_ms or taken_ms + later.delay_ms


def next_ms(later: Later, due_ms: int, now_ms: int) -> int:
    """When a recurring message is due next: the first of its times that is later than now; those missed are left out.

    Raises:
        WrongBody: its cron line is none.
    """
    if later.cron:
        after = Cron(later.cron).after(datetime.fromtimestamp(max(due_ms, now_ms) / 1000, UTC))
        return round(after.timestamp() * 1000)
    every = max(later.every_ms, LEAST_EVERY_MS)
    return due_ms + every * max(1, (now_ms - due_ms) // every + 1)


def payload(later: Later, due_ms: int, taken_ms: int = 0) -> bytes:
    """The batch of one message that it becomes; it counts as sent at the time when it was due."""
    sent_us = due_ms * 1000
    expires_us = later.until_us or (sent_us + later.ttl_us if later.ttl_us else 0)
    headers = {ID_HEADER: later.id, TAKEN_HEADER: str(taken_ms)} if later.id and not later.schedule else None
    fields = (later.to, later.name, 1, one_body(later.body), sent_us, later.sender)
    series = Series(*fields, headers=headers, expires_us=expires_us)
    return encode(Batch(SCHEMA, PRODUCER, 0, [series]))


def timed(later: Later, due_ms: int, taken_ms: int) -> Timed:
    """What is stored of it; when it is due, and when the server took it, milliseconds since 1970."""
    if later.cron or later.every_ms:
        return Timed(due_ms, AGAIN + encode(later))
    return Timed(due_ms, kind_of(later) + payload(later, due_ms, taken_ms))


def kind_of(later: Later) -> bytes:
    """What says which inbox it goes to."""
    return KINDS.get(later.priority, ONCE)


def read_again(value: bytes) -> Later:
    """What was stored of a recurring message.

    Raises:
        WireError: a stranger wrote it.
    """
    return decode(value[1:], Later)


def taken_ms(value: bytes) -> int:
    """When the server took what was stored, milliseconds since 1970; 0 if it has no id to be cancelled by."""
    if value[:1] == AGAIN:
        return 0
    try:
        (series,) = decode(value[1:], Batch).series
    except (WireError, ValueError):
        return 0  # A stranger wrote it.
    return taken_of(series.headers)


def taken_of(headers: dict[str, str] | None) -> int:
    """When the server took a message for later, milliseconds since 1970; 0 if it is none, or has no id."""
    said = (headers or {}).get(TAKEN_HEADER, "")
    return int(said) if said.isascii() and said.isdecimal() and len(said) <= 16 else 0


def view(key: str, due_ms: int, value: bytes) -> Scheduled:
    """What waits under a key, as people see it.

    Raises:
        WireError: a stranger wrote it.
    """
    kind, _, rest = key.partition("/")
    id = rest.split("/")[2] if rest.count("/") == 2 else ""
    if value[:1] == AGAIN:
        later = read_again(value)
        found = Scheduled(later.to, later.name, due_ms, cron=later.cron, every_s=later.every_ms / 1000)
    else:
        found = Scheduled("", "", due_ms)
        for series in decode(value[1:], Batch).series:
            found = Scheduled(series.to, series.name, due_ms)
    return structs.replace(found, id=id, schedule=kind == "s")
