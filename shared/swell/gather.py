"""Putting messages that go to one agent together, so that they name it once (ADR 11).

message --encoded--> series of its agent --+  chunk full, messages over,
message --encoded--> series of its agent --+  or one that goes alone      --> all series, in the order of their first
large, or not to be encoded: alone, behind all that came before it
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from msgspec import Raw

from swell.codec import UNENCODABLE, Gathered, SeriesBuffer, encode_into

#: Messages gathered at a time: twenty for each of a hundred agents.
MOST_GATHERED = 2048
#: Bytes of bodies gathered at a time.
MOST_BYTES = 1 << 20
#: Messages in one series: few enough for batches to become full.
MOST_IN_SERIES = 32
#: A body with more bytes goes alone: naming its agent costs nothing beside it.
LARGE_BYTES = 16_384


def gather(
    messages: Iterable[tuple[str, str, Any]], shard: Callable[[str], str], sender: str
) -> Iterator[tuple[str, tuple[Any, ...] | Gathered]]:
    """Yield (to, name, body) triples as series with their shards; an agent's messages keep their order.

    Each body is encoded when its message comes, so it may be changed afterwards. When `messages` raises, what it gave
    before is yielded first.
    """
    found: list[SeriesBuffer] = []
    newest: dict[str, SeriesBuffer] = {}
    count = size = now_us = 0

    def take() -> Iterator[tuple[str, Gathered]]:
        nonlocal count, size
        ready = found.copy()
        found.clear()
        newest.clear()
        count = size = 0
        for series in ready:
            if series.count:
                yield shard(series.to), series.series(now_us, sender)

    try:
        for to, name, body in messages:
            if not found:
                now_us = time.time_ns() // 1000
            one = newest.get(to)
            if one is None or one.name != name or one.count == MOST_IN_SERIES:
                one = newest[to] = SeriesBuffer(to, name)
                found.append(one)
            data = one.data
            before = len(data)
            alone = body
            try:
                encode_into(body, data, before)
                grown = len(data) - before
                if grown > LARGE_BYTES:
                    alone = Raw(bytes(data[before:]))
            except UNENCODABLE:
                grown = LARGE_BYTES + 1  # Whoever puts it into a batch says what is wrong with it.
            if grown > LARGE_BYTES:
                del data[before:]
                yield from take()
                yield shard(to), (to, name, alone, now_us, sender) if sender else (to, name, alone, now_us)
                continue
            one.count += 1
            count += 1
            size += grown
            if count == MOST_GATHERED or size > MOST_BYTES:
                yield from take()
    except Exception:
        yield from take()
        raise
    yield from take()
