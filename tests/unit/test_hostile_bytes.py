"""Any bytes at all, in any place where bytes of others are read: they decode, or they are a `WireError`."""

from __future__ import annotations

import resource
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swell.codec import MAX_BATCH_BYTES, decode
from swell.errors import WireError
from tests.fuzz.codec import READERS, samples
from tests.unit.test_codec import bodies

#: Beginnings of values that promise much: arrays, maps, strings, and ext types of up to 4 GiB, and timestamps.
PROMISES = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff")
PROMISES += (b"\xc9\xff\xff\xff\xff\xff", b"\xc7\x0c\xff" + b"\xff" * 12, b"\x81\x80\x01", b"\xa1\xff", b"\xc1")

#: Bytes of no kind, of a valid value, and of a valid one that was cut, changed, and put together with others.
hostile = (
    st.binary(max_size=300)
    | bodies.map(msgspec.msgpack.encode)
    | st.lists(st.sampled_from(PROMISES) | st.binary(max_size=20), max_size=8).map(b"".join)
    | st.builds(
        lambda sample, at, change, cut: (
            sample[: at % len(sample)] + change + sample[at % len(sample) + len(change) :]
        )[: len(sample) - cut],
        st.sampled_from(samples()),
        st.integers(0, 500),
        st.binary(max_size=6) | st.sampled_from(PROMISES),
        st.integers(0, 40),
    )
)


@pytest.mark.parametrize("name", READERS)
@given(data=hostile)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_any_bytes_decode_or_are_a_wire_error(name: str, data: bytes) -> None:
    try:
        READERS[name](data)
    except WireError:
        return


@pytest.mark.parametrize("name", ["letter"])
@given(data=hostile)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_a_letter_that_cannot_be_read_is_shown_all_the_same(name: str, data: bytes) -> None:
    READERS[name](data)


@pytest.mark.parametrize("name", READERS)
def test_each_reader_reads_one_of_the_samples(name: str) -> None:
    read = 0
    for sample in samples():
        try:
            READERS[name](sample)
        except WireError:
            continue
        read += 1
    assert read


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "opening", [b"\x91", b"\x81", b"\x81\xa1a", b"\x92\xc0"], ids=["array", "key", "value", "second"]
)
def test_bytes_nested_ten_thousand_deep_and_a_mebibyte_of_them_crash_nothing(name: str, opening: bytes) -> None:
    for depth in (10_000, MAX_BATCH_BYTES // len(opening)):
        for data in (
            opening * depth,
            opening * depth + b"\xc0",
            b"\x00\x94\x01\xa1p\x01\x91\x94\xa1a\xa1b" + opening * depth,
        ):
            try:
                READERS[name](data)
            except WireError:
                continue


@pytest.mark.parametrize("promise", PROMISES)
def test_a_value_that_promises_gigabytes_costs_none(promise: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for nesting in (1, 50):
        with pytest.raises(WireError):
            decode(promise[:5] * nesting, Any)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
