"""Batches as bytes: what is encoded comes back, limits hold, and nothing that is not a batch gets through."""

from __future__ import annotations

import datetime
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from swell.codec import (
    MAX_BATCH_BYTES,
    MAX_BATCH_MESSAGES,
    MAX_ENTRY_BYTES,
    UNENCODABLE,
    Gathered,
    MessageBuffer,
    SeriesBuffer,
    decode,
    decode_batch,
    decode_replies,
    encode,
    raw,
)
from swell.errors import WireError
from swell.wire import SCHEMA, Batch, Message, Reply

bodies = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
messages = st.tuples(st.text(), st.text(), bodies, st.integers(0, 2**63), st.text(), st.text(), st.integers(0, 2**63))


def batch_of(*items: tuple[Any, ...], producer: str = "producer", seq: int = 7) -> bytes:
    buffer = MessageBuffer()
    assert all(buffer.add(item) for item in items)
    return buffer.batch(producer, seq)


def message(body: Any = None, to: str = "echo/1") -> tuple[Any, ...]:
    return (to, "echo", body, 1)


@given(items=st.lists(messages, min_size=1, max_size=40), producer=st.text(max_size=300), seq=st.integers(1, 2**63))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_a_batch_comes_back_as_it_was_sent(items: list[tuple[Any, ...]], producer: str, seq: int) -> None:
    batch = decode_batch(batch_of(*items, producer=producer, seq=seq), len(items))
    assert (batch.schema, batch.producer, batch.seq) == (SCHEMA, producer, seq)
    for item, read in zip(items, batch.messages, strict=True):
        to, name, body, *rest = item
        assert (read.to, read.name, msgspec.msgpack.decode(read.body)) == (to, name, body)
        assert [read.sent_us, read.sender, read.reply_to, read.call] == rest
        assert read.headers is None


@pytest.mark.parametrize("count", [1, 15, 16, 17, 255, 256])
def test_every_form_of_the_count_is_readable(count: int) -> None:
    payload = batch_of(*[message(n) for n in range(count)])
    assert [decode(m.body, int) for m in decode_batch(payload, count).messages] == list(range(count))
    assert msgspec.msgpack.decode(payload)[:3] == [SCHEMA, "producer", 7]


def test_the_257th_message_belongs_into_the_next_batch() -> None:
    buffer = MessageBuffer()
    assert all(buffer.add(message()) for _ in range(MAX_BATCH_MESSAGES))
    before = bytes(buffer.data)
    assert buffer.add(message()) is False
    assert (buffer.count, bytes(buffer.data)) == (MAX_BATCH_MESSAGES, before)


def test_a_message_that_would_pass_a_mebibyte_belongs_into_the_next_batch() -> None:
    buffer = MessageBuffer()
    assert buffer.add(message(b"x" * (MAX_BATCH_BYTES // 2)))
    before = len(buffer.data)
    assert buffer.add(message(b"x" * (MAX_BATCH_BYTES // 2))) is False
    assert (buffer.count, len(buffer.data)) == (1, before)
    assert buffer.add(message(b"small"))
    assert len(decode_batch(buffer.batch("producer", 1), 2).messages) == 2


def test_a_message_of_exactly_the_limit_fits_and_one_byte_more_is_refused() -> None:
    overhead = len(encode(["echo/1", "echo", 1, [b"x" * 100_000], 1])) - 100_000
    fits = message(b"x" * (MAX_BATCH_BYTES - overhead))
    payload = batch_of(fits, producer="p" * 300)
    assert len(payload) <= MAX_ENTRY_BYTES
    assert len(decode_batch(payload, 1).messages) == 1

    buffer = MessageBuffer()
    assert buffer.add(message("stays"))
    with pytest.raises(WireError, match=r"echo/1 has 1048577 bytes; at most 1048576"):
        buffer.add(message(b"x" * (MAX_BATCH_BYTES - overhead + 1)))
    assert [decode(m.body, str) for m in decode_batch(buffer.batch("p", 1), 1).messages] == ["stays"]


def nested(depth: int) -> Any:
    body: Any = None
    for _ in range(depth):
        body = [body]
    return body


@pytest.mark.parametrize(
    "body",
    [object(), {"deep": [object()]}, 2**64, -(2**63) - 1, {object(): 1}, nested(100_000), datetime.timezone],
    ids=["object", "inside", "too large", "too small", "key", "nested", "class"],
)
def test_a_body_that_cannot_be_encoded_is_refused_and_leaves_the_batch_as_it_was(body: Any) -> None:
    buffer = MessageBuffer()
    assert buffer.add(message("before"))
    before = bytes(buffer.data)
    with pytest.raises(WireError, match="'echo' cannot be sent"):
        buffer.add(message(body))
    assert (buffer.count, bytes(buffer.data)) == (1, before)
    with pytest.raises(WireError, match="cannot be sent"):
        raw(body)


def test_a_raw_body_is_carried_as_it_is() -> None:
    (read,) = decode_batch(batch_of(message(raw({"a": [1, 2]}))), 1).messages
    assert decode(read.body, dict[str, list[int]]) == {"a": [1, 2]}


def test_structs_travel_as_bodies_and_come_back_as_their_type() -> None:
    class Review(msgspec.Struct):
        path: str
        lines: int

    (read,) = decode_batch(batch_of(message(Review("a.py", 3))), 1).messages
    assert decode(read.body, Review) == Review("a.py", 3)
    with pytest.raises(WireError, match=r"\$\.lines"):
        decode(raw({"path": "a.py", "lines": "three"}), Review)


@pytest.mark.parametrize("count", [0, -1, 257, 10**9])
def test_a_count_outside_the_limits_is_refused_before_decoding(count: int) -> None:
    with pytest.raises(WireError, match=f"holds 1 to 256 messages, not {count}"):
        decode_batch(b"", count)


def test_an_entry_too_large_is_refused_before_decoding() -> None:
    with pytest.raises(WireError, match="an entry of"):
        decode_batch(b"\xc1" * (MAX_ENTRY_BYTES + 1), 1)


def test_a_count_that_the_batch_contradicts_is_refused() -> None:
    with pytest.raises(WireError, match="says 3 messages and holds 2"):
        decode_batch(batch_of(message(), message()), 3)


def test_a_batch_of_another_schema_is_refused() -> None:
    with pytest.raises(WireError, match=rf"schema {SCHEMA + 1} is not read here"):
        decode_batch(encode(Batch(SCHEMA + 1, "producer", 1, [Message("a/1", "x", raw(None), 0).alone()])), 1)
    with pytest.raises(WireError, match="schema 1 is not read here"):
        decode_batch(encode([1, "producer", 1, [["a/1", "x", None, 0]]]), 1)


@pytest.mark.parametrize(
    "series",
    [
        ["a/1", "x", 2, [1], 0],
        ["a/1", "x", 1, [1, 2], 0],
        ["a/1", "x", 0, [], 0],
        ["a/1", "x", 2, {"a": 1}, 0],
        ["a/1", "x", 2, "ab", 0],
        ["a/1", "x", 2, [1, 2], 0, "", "asker", 7],
        ["a/1", "x", -1, [1], 0],
    ],
)
def test_a_series_that_says_other_than_it_holds_is_refused(series: list[Any]) -> None:
    with pytest.raises(WireError, match="series"):
        decode_batch(encode([SCHEMA, "p", 1, [series, ["a/1", "x", 1, [1], 0]]]), 3)


def gathered(bodies: list[Any]) -> Gathered:
    buffer = SeriesBuffer("echo/1", "echo")
    for body in bodies:
        assert isinstance(buffer.add(body, MAX_BATCH_BYTES), int)
    return buffer.series(12, "s/1")


@pytest.mark.parametrize("count", [1, 15, 16, 255, 256])
def test_messages_that_are_gathered_come_back_one_by_one(count: int) -> None:
    bodies = [{"n": n} for n in range(count)]
    buffer = MessageBuffer()
    assert buffer.add(gathered(bodies))
    assert buffer.count == count
    read = decode_batch(buffer.batch("p", 1), count).messages
    assert [decode(one.body, dict[str, int]) for one in read] == bodies
    assert {(one.to, one.name, one.sent_us, one.sender) for one in read} == {("echo/1", "echo", 12, "s/1")}


class Broken(datetime.tzinfo):
    """Raises what encoding does not expect."""

    def utcoffset(self, _: Any) -> Any:
        raise KeyError("broken")


class Unset(msgspec.Struct):
    text: str
    number: int = 0


def unset() -> Unset:
    body = Unset("x" * 100)
    del body.number
    return body


@pytest.mark.parametrize("body", [[1, object()], "\ud800", unset()], ids=["object", "surrogate", "unset"])
def test_nothing_is_left_of_a_body_that_cannot_be_sent(body: Any) -> None:
    buffer, series = MessageBuffer(), SeriesBuffer("echo/1", "echo")
    buffer.add(message(1))
    series.add(2, 99)
    with pytest.raises(WireError, match="echo/1"):
        buffer.add(message(body))
    with pytest.raises(UNENCODABLE):
        series.add(body, 99)
    buffer.add(series.series(1, ""))
    assert [decode(one.body, int) for one in decode_batch(buffer.batch("p", 1), 2).messages] == [1, 2]


def test_nothing_is_left_of_a_body_that_raises_something_else() -> None:
    body = ["x" * 100, datetime.datetime(2026, 1, 1, tzinfo=Broken())]
    buffer, series = MessageBuffer(), SeriesBuffer("echo/1", "echo")
    with pytest.raises(KeyError):
        buffer.add(message(body))
    with pytest.raises(KeyError):
        series.add(body, 99)
    assert series.add("x" * 99, 99) == Raw(encode("x" * 99))
    series.add(2, 99)
    buffer.add(series.series(1, "s/1"))
    assert [decode(one.body, int) for one in decode_batch(buffer.batch("p", 1), 1).messages] == [2]


def test_a_series_goes_into_a_batch_whole_or_not_at_all() -> None:
    buffer = MessageBuffer()
    buffer.add(message())
    assert not buffer.add(gathered(list(range(256))))
    large = gathered([b"x" * 524_000] * 2)
    assert buffer.add(large)
    assert not buffer.add(large)
    assert (buffer.count, buffer.series) == (3, 2)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"hello",
        b"\x94\x01",
        encode({"schema": 1}),
        encode([SCHEMA, "p", 1]),
        encode([SCHEMA, "p", 1, [["to"]]]),
        encode([SCHEMA, "p", 1, [[1, "name", None, 0]]]),
        encode([SCHEMA, 1, 1, [["to", "name", None, 0]]]),
        batch_of(message("cut"))[:-1],
        batch_of(message()) + b"\x00",
        b"\x94\x01\xa1p\x01\xdd" + struct.pack(">I", 2**32 - 1),
        b"\x94\x01\xa1p\x01" + b"\x91" * 10_000,
        b"\x94\x01\xa1p\x01\x91\x94\xa1a\xa1b" + b"\x91" * 10_000 + b"\xc0\x00",
        b"\x94\x01\xa2\xff\xfe\x01\x90",
    ],
)
def test_bytes_that_are_no_batch_are_a_wire_error(payload: bytes) -> None:
    with pytest.raises(WireError):
        decode_batch(payload, 1)


@given(payload=st.binary(max_size=200), count=st.integers(1, 256))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_random_bytes_never_raise_anything_but_a_wire_error(payload: bytes, count: int) -> None:
    with pytest.raises(WireError):
        decode_batch(payload, count)


@given(cut=st.integers(0, 400), flip=st.integers(0, 10_000), by=st.integers(1, 255))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_a_damaged_batch_is_a_batch_or_a_wire_error(cut: int, flip: int, by: int) -> None:
    payload = bytearray(batch_of(*[message({"n": n, "text": "abc"}) for n in range(10)]))
    payload[flip % len(payload)] ^= by
    if cut < 200:
        del payload[len(payload) - cut :]
    try:
        batch = decode_batch(bytes(payload), 10)
    except WireError:
        return
    assert len(batch.messages) == 10


def test_replies_come_back_as_they_were_sent() -> None:
    replies = [Reply(1, 0, raw("done")), Reply(2, 1, raw({"kind": "x"}))]
    assert [(r.call, r.status, bytes(r.body)) for r in decode_replies(encode(replies))] == [
        (r.call, r.status, bytes(r.body)) for r in replies
    ]


@pytest.mark.parametrize("payload", [b"", b"\xc1", encode({}), encode([[1]]), b"\x91" * 10_000])
def test_bytes_that_are_no_replies_are_a_wire_error(payload: bytes) -> None:
    with pytest.raises(WireError, match="not a list of replies"):
        decode_replies(payload)
