"""Keys, values and their limits; what people see of facts, changes and locks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

import msgspec
from msgspec import Struct

from swell.bus.facts import HoldState, StoredFact
from swell.codec import MAX_BATCH_BYTES, UNENCODABLE, encode
from swell.codec import decode as decode_as
from swell.errors import WireError, WrongBody

#: Bytes of UTF-8 that a key or a name may have.
MAX_KEY_BYTES = 512
#: Keys and names that begin with this are the system's own: everybody may read them, the system alone writes them.
SYSTEM = "$"
#: Bytes that a value may have encoded: as many as a message.
MAX_VALUE_BYTES = MAX_BATCH_BYTES
#: Facts, or locks, of one page.
MOST_LISTED = 1000
#: Times to live, seconds: of a fact; of a lock, a seat, or a place at a barrier.
LEAST_FACT_S, MOST_FACT_S = 0.001, 10 * 365 * 86_400.0
LEAST_SEAT_S, MOST_SEAT_S = 0.1, 3600.0
#: Seats of a semaphore, parties of a barrier.
MOST_SEATS = 10_000

#: What a seat may be of; a kind and a name make a place, `lock/deploy`.
SeatKind = Literal["lock", "semaphore", "leader"]
KINDS: tuple[SeatKind, ...] = get_args(SeatKind)

#: `there` when a watch begins, or begins again; `skipped`: changes were missed, what was known is void.
Kind = Literal["there", "put", "deleted", "expired", "skipped"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Fact(Generic[_T]):
    """A value under a key.

    Attributes:
        key: its name.
        value: what was put.
        version: grows with every change of the key, also when it is deleted and made again.
        expires_s: seconds until it expires, None for never.
    """

    key: str
    value: _T
    version: int
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class Change(Generic[_T]):
    """What a watch tells.

    Attributes:
        kind: `there`, `put`, `deleted`, `expired`, or `skipped` (then the rest is empty).
        key: which fact.
        version: of the fact as it is now, or of its end.
        value: None unless it is there.
    """

    kind: Kind
    key: str = ""
    version: int = 0
    value: _T | None = None


class FactView(Struct):
    """A fact as JSON shows it; `value_hex` has a value that JSON cannot show, then `value` is null."""

    key: str
    version: int
    value: Any
    expires_s: float | None = None
    value_hex: str = ""


class ChangeView(Struct):
    """A change as JSON shows it; see `Change` and `FactView`."""

    kind: Kind
    key: str = ""
    version: int = 0
    value: Any = None
    value_hex: str = ""


class LockHolder(Struct):
    """Who holds a lock: `owner` is a process, or an agent and its process; with its fencing token."""

    owner: str
    token: int
    held_s: float
    left_s: float


class LockView(Struct):
    """A lock, semaphore or leader's name, who holds it, and how many wait."""

    kind: str
    name: str
    limit: int
    waiting: int
    holders: list[LockHolder]

    @property
    def place(self) -> str:
        """What the next page begins behind."""
        return f"{self.kind}/{self.name}"


def check_key(key: object, field: str = "key") -> str:
    """Return `key` if it may name something.

    Raises:
        WrongBody: it is empty, longer than 512 bytes, or holds what cannot be printed.
    """
    if not isinstance(key, str) or not key or not key.isprintable():
        raise WrongBody("", f"{field}: {key!r:.80} must be printable text, not empty", field=field)
    if len(key.encode()) > MAX_KEY_BYTES:
        raise WrongBody("", f"{field}: {len(key.encode())} bytes are more than {MAX_KEY_BYTES}", field=field)
    return key


def check_own(key: object, field: str = "key") -> str:
    """Return `key` if a user may write it, or take it as a name.

    Raises:
        WrongBody: it may name nothing, or is the system's own.
    """
    name = check_key(key, field)
    if name.startswith(SYSTEM):
        said = f"{field}: {name!r:.80}: names that begin with {SYSTEM} are the system's own; take another one"
        raise WrongBody("", said, field=field)
    return name


def check_prefix(prefix: object, field: str = "prefix") -> str:
    """Return `prefix` if keys may begin with it; it may be empty.

    Raises:
        WrongBody: it could begin no key.
    """
    return check_key(prefix, field) if prefix != "" else ""


def check_wait(wait: float | None) -> float | None:
    """Return `wait` if it is None or so many seconds that one can wait.

    Raises:
        WrongBody: it is not.
    """
    if wait is not None:
        milliseconds(wait, 0, MOST_FACT_S, "wait")
    return wait


def parse_fence(text: str) -> tuple[str, int]:
    """The place and token of a fence, written `lock/deploy:1790000000000000`.

    Raises:
        WrongBody: it is not written so.
    """
    place, _, token = text.rpartition(":")
    kind, _, name = place.partition("/")
    if kind not in KINDS or not name or not (token.isascii() and token.isdigit()):
        raise WrongBody(
            "", f"fence: {text!r:.80} is not KIND/NAME:TOKEN with a kind of {', '.join(KINDS)}", field="fence"
        )
    check_key(name, "fence")
    return place, int(token)


def check_number(number: object, least: int, most: int, field: str) -> int:
    """Return `number` if it is a whole one within bounds.

    Raises:
        WrongBody: it is not.
    """
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise WrongBody("", f"{field}: {number!r} is not a whole number from {least:,} to {most:,}", field=field)
    return number


def milliseconds(seconds: float, least: float, most: float, field: str = "ttl") -> int:
    """A time to live in milliseconds.

    Raises:
        WrongBody: it is not within bounds.
    """
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or not least <= seconds <= most:
        raise WrongBody("", f"{field}: {seconds!r} is not between {least:g} and {most:,.10g} seconds", field=field)
    return max(1, round(seconds * 1000))


def encode_value(key: str, value: Any) -> bytes:
    """A value as it is stored.

    Raises:
        WireError: MessagePack cannot carry it, or it is larger than 1 MiB.
    """
    try:
        data = encode(value)
    except UNENCODABLE as error:
        raise WireError(f"the value of {key!r} cannot be kept: {error}") from None
    if len(data) > MAX_VALUE_BYTES:
        raise WireError(
            f"the value of {key!r} has {len(data)} bytes; at most {MAX_VALUE_BYTES} are allowed: "
            "keep a reference to the data instead"
        )
    return data


def decode_value(key: str, data: bytes, type: Any) -> Any:
    """A stored value as `type`.

    Raises:
        WireError: it is not of that type, or no value at all; the text names the key.
    """
    try:
        return decode_as(data, type)
    except WireError as error:
        raise WireError(f"the value of {key!r} is not what was asked for: {error}") from None


def readable(data: bytes) -> tuple[Any, str]:
    """A stored value for JSON, or None and the value in hexadecimal if JSON cannot show it."""
    try:
        value = decode_as(data, Any)
        msgspec.json.encode(value)
    except (WireError, *UNENCODABLE):
        return None, data.hex()
    return value, ""


def fact_view(stored: StoredFact) -> FactView:
    """A fact as JSON shows it."""
    value, value_hex = readable(stored.value)
    expires_s = stored.left_ms / 1000 if stored.left_ms >= 0 else None
    return FactView(stored.key, stored.version, value, expires_s, value_hex)


def change_view(change: Change[bytes]) -> ChangeView:
    """A change whose value is still encoded, as JSON shows it."""
    value, value_hex = (None, "") if change.value is None else readable(change.value)
    return ChangeView(change.kind, change.key, change.version, value, value_hex)


def lock_view(state: HoldState) -> LockView:
    """A lock as people see it."""
    kind, _, name = state.name.partition("/")
    holders = [LockHolder(one.owner, one.token, one.held_ms / 1000, one.left_ms / 1000) for one in state.holders]
    return LockView(kind, name, state.limit, state.waiting, holders)
