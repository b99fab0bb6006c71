"""Dead letters as they are written, and as they become messages again.

A message that died and is replayed carries the header `swell-letter`: the id of its first death and its deaths so far.
If it dies again, the new letter has that id and one death more in its history.

    message --dies--> letter (id, history) --replayed--> message (header: id, history + this death)
                            ^----------------dies---------------'
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct, structs

from swell.bus.entry import Entry
from swell.clock import now_ms
from swell.codec import MAX_ENTRY_BYTES, encode
from swell.wire import SCHEMA, Batch, DeadLetter, Death, Message, Series, one_body

#: The header of a message that was a dead letter before.
HEADER = "swell-letter"
#: Kind of the letter of an entry whose bytes are no batch.
MALFORMED = "malformed"
#: Former deaths that a letter keeps, the newest.
KEEP_DEATHS = 20
#: Characters of the reason of a former death that are kept.
KEEP_REASON = 500
#: Characters of a reason that a letter keeps: it may quote names that a stranger made long.
KEEP_OWN_REASON = 4000
#: Bytes of a malformed entry that its dead letter keeps.
KEEP_MALFORMED_BYTES = 4096
#: Who appended the entry of a replayed message; it has no sequence of its own.
REPLAY = "replay"


class KeptLetter(DeadLetter, kw_only=True):
    """A letter as it is read to be replayed: its body stays the bytes that were sent."""

    body: Raw


class _Origin(Struct):
    """The content of the header."""

    id: str
    history: list[Death] = []


def letter(entry: Entry, index: int, message: Message, death: Death, traceback: str = "") -> bytes:
    """The dead letter of a message that is given up now, encoded.

    Args:
        entry: the entry it came in.
        index: its place there.
        message: itself.
        death: why it is given up; the time is now.
        traceback: of the last attempt, if there was one.
    """
    origin = _origin(message.headers)
    return encode(
        DeadLetter(
            id=origin.id if origin is not None else f"{entry.inbox.name}:{entry.id}:{index}",
            to=message.to,
            name=message.name,
            body=message.body,
            kind=death.kind,
            reason=death.reason[:KEEP_OWN_REASON],
            attempts=death.attempts,
            traceback=traceback,
            sender=message.sender,
            sent_us=message.sent_us,
            at_ms=now_ms(),
            history=origin.history[-KEEP_DEATHS:] if origin is not None else [],
        )
    )


def malformed(entry: Entry, payload: bytes, reason: str) -> bytes:
    """The dead letter of an entry whose bytes are no batch, encoded; it keeps the first 4 KiB of them."""
    return encode(
        DeadLetter(
            id=f"{entry.inbox.name}:{entry.id}:0",
            to="",
            name="",
            body=payload[:KEEP_MALFORMED_BYTES],
            kind=MALFORMED,
            reason=reason[:KEEP_OWN_REASON],
            at_ms=now_ms(),
        )
    )


def revived(letter: KeptLetter, sent_us: int) -> bytes:
    """The batch of one message that a letter becomes when it is replayed.

    Nobody waits for its result any more. The history is cut as far as the message would be too large with it.
    """
    death = Death(letter.kind, letter.reason[:KEEP_REASON], letter.attempts, letter.at_ms)
    history = [*letter.history, death][-KEEP_DEATHS:]
    series = Series(letter.to, letter.name, 1, one_body(letter.body), sent_us, letter.sender)
    while True:
        header = msgspec.json.encode(_Origin(letter.id, history)).decode()
        payload = encode(Batch(SCHEMA, REPLAY, 0, [structs.replace(series, headers={HEADER: header})]))
        if len(payload) <= MAX_ENTRY_BYTES or not history:
            return payload
        history = history[len(history) // 2 + 1 :]


def _origin(headers: Mapping[str, str] | None) -> _Origin | None:
    """What the header says; None if there is none, or a stranger wrote it."""
    text = headers.get(HEADER) if headers else None
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=_Origin)
    except (msgspec.DecodeError, RecursionError):
        return None


__all__ = ["HEADER", "KEEP_DEATHS", "MALFORMED", "KeptLetter", "letter", "malformed", "revived"]
