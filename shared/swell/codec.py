"""Batch <-> entry bytes. Limits are checked before anything is decoded.

Nesting is bounded by the interpreter: msgspec asks for its recursion limit at each level, in values that it keeps raw
too, and what is deeper is a `WireError`. No array or map is given memory for more than its bytes can hold.

The producer writes each message straight into its shard's buffer (`MessageBuffer`), so a batch is never encoded twice:
MessagePack arrays are their elements one after another behind a count, and the head is put in front at the end.
"""

from __future__ import annotations

import struct
from typing import Any, TypeVar

import msgspec
from msgspec import DecodeError, Raw

from swell.errors import WireError
from swell.wire import SCHEMA, Batch, Message, Reply

MAX_BATCH_MESSAGES = 256
#: A batch may hold at most this many bytes, and so may a single message.
MAX_BATCH_BYTES = 1 << 20
#: What the head of a batch and its field names may add to that in an entry.
MAX_ENTRY_BYTES = MAX_BATCH_BYTES + 1024
#: What a handler returns may have as many bytes as a message.
MAX_RESULT_BYTES = MAX_BATCH_BYTES
#: An event's body: what it becomes has the names of its subscriber, its handler and its group, too.
MAX_EVENT_BYTES = MAX_BATCH_BYTES - 4096
#: The same with its sender and its headers, which each of the messages has as well. Half of the rest is for the names.
MAX_STAMPED_EVENT_BYTES = MAX_EVENT_BYTES + 2048

_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(Batch)
_SCHEMA_BYTE = bytes((SCHEMA,))
#: The fields `reply_to`, `call` and `headers` of a series that wants no answer.
_NOT_ASKED = b"\xa0\x00\xc0"
_replies_decoder = msgspec.msgpack.Decoder(list[Reply])

#: All that msgspec raises for bytes of others.
UNDECODABLE = (DecodeError, RecursionError, MemoryError, UnicodeDecodeError)
#: All that msgspec raises for values that MessagePack cannot carry; of a struct with a field unset an AttributeError.
UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError, AttributeError)

encode = _encoder.encode
_encode_into = _encoder.encode_into
_T = TypeVar("_T")


def decode(data: bytes | Raw, type: type[_T]) -> _T:
    """Decode one MessagePack value as `type`.

    Raises:
        WireError: it is not MessagePack, or not of that type; the text gives the path of the wrong field.
    """
    try:
        return msgspec.msgpack.decode(data, type=type)
    except UNDECODABLE as error:
        raise WireError(str(error)) from None


def raw(value: Any) -> Raw:
    """Encode a value to be carried inside another.

    Raises:
        WireError: the value holds something that MessagePack cannot carry; the text names its type.
    """
    try:
        return Raw(_encoder.encode(value))
    except UNENCODABLE as error:
        raise WireError(f"this body cannot be sent: {error}") from None


def raw_result(value: Any) -> Raw:
    """Encode what a handler returned, for who asked.

    Raises:
        WireError: it holds something that MessagePack cannot carry, or is larger than 1 MiB.
    """
    body = raw(value)
    if len(body) > MAX_RESULT_BYTES:
        raise WireError(f"it has {len(body)} bytes; at most {MAX_RESULT_BYTES} are allowed: return a reference instead")
    return body


def check_event(body: Raw, sender: str, headers: dict[str, str] | None = None) -> None:
    """Check that an event fits into the messages that it becomes.

    Raises:
        WireError: it would not; the text says what to change.
    """
    size = len(body)
    if size > MAX_EVENT_BYTES:
        raise WireError(
            f"the event's body is too large: it has {size} bytes, and at most {MAX_EVENT_BYTES} are allowed: "
            "send a reference to the data instead"
        )
    stamp = len(raw(sender)) + (len(raw(headers)) if headers else 0)
    if size + stamp > MAX_STAMPED_EVENT_BYTES:
        raise WireError(
            f"the event is too large: its body has {size} bytes, its sender and headers {stamp}, and together at most "
            f"{MAX_STAMPED_EVENT_BYTES} are allowed: give a shorter sender, or send a reference to the data instead"
        )


class Gathered:
    """A series of messages, encoded: it goes into a batch whole.

    Attributes:
        count: its messages, 1..256.
        data: its MessagePack.
    """

    __slots__ = ("count", "data")

    def __init__(self, count: int, data: bytes) -> None:
        self.count = count
        self.data = data


class SeriesBuffer:
    """Messages to one agent by one name being gathered, encoded as they come: 0..256 messages.

    Attributes:
        to: whom to.
        name: the handler.
        count: messages gathered.

    Raises:
        UNENCODABLE: the agent or the name is no text.
    """

    __slots__ = ("_data", "_head", "count", "name", "to")

    def __init__(self, to: str, name: str) -> None:
        self.to = to
        self.name = name
        self.count = 0
        self._head = encode(to) + encode(name)
        self._data = bytearray()

    def add(self, body: Any, most: int) -> int | Raw:
        """Encode a body at the end, unless it has more than `most` bytes.

        Returns:
            how many bytes it took, or what it is encoded, if that is too much.

        Raises:
            UNENCODABLE: MessagePack cannot carry it; nothing was added.
        """
        data = self._data
        before = len(data)
        try:
            _encode_into(body, data, before)
        except BaseException:
            del data[before:]
            raise
        size = len(data) - before
        if size > most:
            large = Raw(bytes(data[before:]))
            del data[before:]
            return large
        self.count += 1
        return size

    def series(self, sent_us: int, sender: str, expires_us: int = 0) -> Gathered:
        """The finished series."""
        count = self.count
        head = (
            (b"\x9a" if expires_us else b"\x96" if sender else b"\x95") + self._head + encode(count) + _array_of(count)
        )
        tail = encode(sent_us) + encode(sender) if sender or expires_us else encode(sent_us)
        if expires_us:
            tail += _NOT_ASKED + encode(expires_us)
        return Gathered(count, b"".join((head, self._data, tail)))


class MessageBuffer:
    """Messages of one batch being gathered, encoded as they come: 0..256 messages, at most 1 MiB.

    Attributes:
        count: messages gathered.
        series: how many series they make.
        data: their MessagePack, one series after another.
    """

    __slots__ = ("count", "data", "series")

    def __init__(self) -> None:
        self.count = 0
        self.series = 0
        self.data = bytearray()

    def add(self, message: tuple[Any, ...] | Gathered) -> bool:
        """Put one message (the fields of `wire.Message`, trailing defaults left out), or a series, at the end.

        Returns:
            False if the batch is full; then nothing was added and the message belongs into the next one.

        Raises:
            WireError: the message cannot be encoded, or is larger than a batch may be; nothing was added.
        """
        data = self.data
        before = len(data)
        if message.__class__ is Gathered:
            if self.count + message.count > MAX_BATCH_MESSAGES or before + len(message.data) > MAX_BATCH_BYTES:
                return False
            data += message.data
            self.count += message.count
            self.series += 1
            return True
        assert isinstance(message, tuple)
        if self.count >= MAX_BATCH_MESSAGES:
            return False
        try:
            _encode_into((message[0], message[1], 1, message[2:3], *message[3:]), data, before)
        except BaseException as error:
            del data[before:]  # What was written of it would make the whole batch unreadable.
            if not isinstance(error, UNENCODABLE):
                raise
            raise WireError(f"the body for {message[0]} {message[1]!r} cannot be sent: {error}") from None
        size = len(data)
        if size > MAX_BATCH_BYTES:
            del data[before:]
            if size - before > MAX_BATCH_BYTES:
                raise WireError(
                    f"the message to {message[0]} has {size - before} bytes; at most {MAX_BATCH_BYTES} are allowed: "
                    "send a reference to the data instead"
                )
            return False
        self.count += 1
        self.series += 1
        return True

    def remove(self, start: int, size: int, count: int) -> None:
        """Take `count` messages that were added one by one out again; they have `size` bytes from `start` on."""
        del self.data[start : start + size]
        self.count -= count
        self.series -= count

    def batch(self, producer: str, seq: int) -> bytes:
        """The finished batch: head, number of series, series."""
        head = b"\x94" + encode(SCHEMA) + encode(producer) + encode(seq)
        return b"".join((head, _array_of(self.series), self.data))


def _array_of(count: int) -> bytes:
    """The head of a MessagePack array."""
    return bytes((0x90 | count,)) if count < 16 else struct.pack(">BH", 0xDC, count)


def decode_batch(payload: bytes, count: int) -> Batch:
    """Decode an entry's batch.

    Args:
        payload: the field `b`.
        count: the field `n`; the batch must hold as many.

    Raises:
        WireError: it passes a limit, is no batch, is of another schema, or holds another number of messages.
    """
    if not 1 <= count <= MAX_BATCH_MESSAGES:
        raise WireError(f"a batch holds 1 to {MAX_BATCH_MESSAGES} messages, not {count}")
    if len(payload) > MAX_ENTRY_BYTES:
        raise WireError(f"an entry of {len(payload)} bytes; at most {MAX_ENTRY_BYTES} are allowed")
    if payload[:1] == b"\x94" and payload[1:2] < b"\x80" and payload[1:2] != _SCHEMA_BYTE:
        raise WireError(f"schema {int.from_bytes(payload[1:2], 'big')} is not read here, only {SCHEMA}")
    try:
        batch = _batch_decoder.decode(payload)
    except UNDECODABLE as error:
        raise WireError(f"not a batch: {error}") from None
    if batch.schema != SCHEMA:
        raise WireError(f"schema {batch.schema} is not read here, only {SCHEMA}")
    holds = 0
    for series in batch.series:
        if series.count != _length(series.bodies):
            raise WireError(f"a series says {series.count} messages and holds {_length(series.bodies)}")
        if series.count != 1 and series.reply_to:
            raise WireError(f"a series of {series.count} messages wants one answer")
        holds += series.count
    if holds != count:
        raise WireError(f"the entry says {count} messages and holds {holds}")
    return batch


def _length(array: Raw) -> int:
    """How many elements a MessagePack array has; -1 if it is none. An empty one is none here."""
    head = memoryview(array)
    first = head[0]
    if 0x90 < first <= 0x9F:
        return first & 0x0F
    return int.from_bytes(head[1:3], "big") if first == 0xDC else -1


def decode_replies(payload: bytes) -> list[Reply]:
    """Decode an entry of a reply stream.

    Raises:
        WireError: it is no list of replies.
    """
    try:
        return _replies_decoder.decode(payload)
    except UNDECODABLE as error:
        raise WireError(f"not a list of replies: {error}") from None


__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_BATCH_MESSAGES",
    "MAX_ENTRY_BYTES",
    "MAX_RESULT_BYTES",
    "UNDECODABLE",
    "UNENCODABLE",
    "Gathered",
    "Message",
    "MessageBuffer",
    "SeriesBuffer",
    "decode",
    "decode_batch",
    "decode_replies",
    "encode",
    "raw",
    "raw_result",
]
