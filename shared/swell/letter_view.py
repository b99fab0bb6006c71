"""What people see of a dead letter, and how they say which ones they mean."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from swell.clock import now_ms
from swell.codec import decode
from swell.errors import ConfigError, WireError
from swell.letters import KeptLetter
from swell.wire import Death

#: Kind of what is in a stream of dead letters and is none that this release reads.
UNREADABLE = "unreadable"

_AGO = re.compile(r"(\d{1,9})([smhd])\Z", re.ASCII)
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Filter(Struct, frozen=True):
    """Which letters; each field that is given must fit.

    Attributes:
        type: the agent's type.
        agent: the agent, `type/key`.
        kind: the kind of failure, as `handler_failed` or `malformed`.
        reason: text that the reason contains, in upper or lower case.
        since_ms: not before this time, milliseconds since 1970 (of the server's clock, as the two below).
        until_ms: not after this time; 0 for no limit.
    """

    type: str = ""
    agent: str = ""
    kind: str = ""
    reason: str = ""
    since_ms: int = 0
    until_ms: int = 0

    def fits(self, letter: LetterView) -> bool:
        """Whether a letter is meant; its time is left to the range that is read."""
        return (
            (not self.type or letter.to.partition("/")[0] == self.type)
            and (not self.agent or letter.to == self.agent)
            and (not self.kind or letter.kind == self.kind)
            and (not self.reason or self.reason.casefold() in letter.reason.casefold())
        )


class LetterView(Struct):
    """A dead letter in a list.

    Attributes:
        id: `shard:entry:index` of the message's first death, the same through every replay.
        place: where the letter is now, `shard:entry`; the next page begins behind it.
        deaths: how often the message has died, this time included.
        attempts: runs of the handler the last time.
        sent_us: when it was sent the last time, microseconds since 1970 on the sender's clock.
        at_ms: when it was given up, milliseconds since 1970.
    """

    id: str
    place: str
    to: str
    name: str
    kind: str
    reason: str
    deaths: int
    attempts: int
    sender: str
    sent_us: int
    at_ms: int


class LetterDetail(LetterView):
    """A dead letter with all that is known.

    Attributes:
        body: what was sent, if JSON can show it; else null.
        body_hex: the bytes of what was sent, in hexadecimal, if JSON cannot show it; else empty.
        traceback: of the last attempt.
        history: the former deaths, oldest first; each was followed by a replay.
    """

    body: Any
    body_hex: str
    traceback: str
    history: list[Death]


def moment(setting: str, text: str) -> int:
    """A time as people give it, in milliseconds since 1970: `30s`, `15m`, `1h` or `7d` ago, or ISO 8601.

    A time without a zone is this machine's; empty text is 0.

    Raises:
        ConfigError: it is neither; the text names `setting`.
    """
    if not text:
        return 0
    ago = _AGO.match(text)
    if ago:
        return max(1, now_ms() - int(ago[1]) * _UNIT_MS[ago[2]])
    try:
        return max(1, int(datetime.fromisoformat(text).astimezone().timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        example = "30s, 15m, 1h or 7d ago, or a time as 2030-01-31T18:00:00"
        raise ConfigError(setting, f"{text[:60]!r} is no time: give {example}") from None


def view(shard: str, place: str, encoded: bytes) -> LetterView:
    """A letter as lists show it: the letter of a shard at a stream id."""
    fields = _fields(shard, place, encoded)
    return LetterView(**{name: fields[name] for name in LetterView.__struct_fields__})


def detail(shard: str, place: str, encoded: bytes) -> LetterDetail:
    """A letter with all that is known."""
    fields = _fields(shard, place, encoded)
    raw: bytes = fields["raw"]
    body: Any = None
    body_hex = ""
    try:
        body = msgspec.msgpack.decode(raw)
        msgspec.json.encode(body)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        body, body_hex = None, raw.hex()
    if isinstance(body, bytes):
        body, body_hex = None, body.hex()
    views = {name: fields[name] for name in LetterDetail.__struct_fields__ if name in fields}
    return LetterDetail(**views, body=body, body_hex=body_hex)


def _fields(shard: str, place: str, encoded: bytes) -> dict[str, Any]:
    """All fields of a letter's views, and its encoded body as `raw`."""
    where = {"place": f"{shard}:{place}"}
    try:
        letter = decode(encoded, KeptLetter)
    except WireError as error:
        nothing = dict.fromkeys(("to", "name", "sender", "traceback"), "") | dict.fromkeys(("attempts", "sent_us"), 0)
        known = {"id": f"{shard}:{place}:?", "kind": UNREADABLE, "reason": str(error), "deaths": 1, "history": []}
        return where | nothing | known | {"at_ms": int(place.partition("-")[0]), "raw": encoded}
    fields = {name: getattr(letter, name) for name in letter.__struct_fields__ if name != "body"}
    return where | fields | {"deaths": len(letter.history) + 1, "raw": bytes(letter.body)}
