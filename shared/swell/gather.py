"""Putting messages that go to one agent together, so that they name it once (ADR 11).

    message --encoded--> series of its agent --+   enough gathered, messages over,
    message --encoded--> series of its agent --+-- or one that goes alone: all series, in the order of their first

One goes alone, behind all that came before it, if it is large, or if it cannot be encoded: whoever puts it into a batch
says what is wrong with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from swell.codec import UNENCODABLE, Gathered, SeriesBuffer
from swell.expiry import Expiry
from swell.wire import ID_HEADER

#: Messages gathered at a time: twenty for each of a hundred agents.
MOST_GATHERED = 2048
#: Bytes of bodies gathered at a time.
MOST_BYTES = 1 << 20
#: Messages in one series: few enough for batches to become full.
MOST_IN_SERIES = 32
#: A body with more bytes goes alone: naming its agent costs nothing beside it.
LARGE_BYTES = 16_384


def gather(
    messages: Iterable[tuple[str, str, Any]], shard: Callable[[str], str], sender: str, expiry: Expiry | None = None
) -> Iterator[tuple[str, tuple[Any, ...] | Gathered]]:
    """Yield (to, name, body) triples as series with their shards; an agent's messages keep their order.

    Each body is encoded when its message comes, so it may be changed afterwards. When `messages` raises, what it gave
    before is yielded first.
    """
    found: list[SeriesBuffer] = []
    newest: dict[str, SeriesBuffer] = {}
    count = size = began_us = 0

    def take() -> list[tuple[str, Gathered]]:
        nonlocal count, size
        expires_us = expiry.at_us(began_us) if expiry is not None else 0
        series = [(shard(one.to), one.series(began_us, sender, expires_us)) for one in found if one.count]
        found.clear()
        newest.clear()
        count = size = 0
        return series

    try:
        for to, name, body in messages:
            if not found:
                began_us = time.time_ns() // 1000
            try:
                one = newest.get(to)
                if one is None or one.name != name or one.count == MOST_IN_SERIES:
                    one = newest[to] = SeriesBuffer(to, name)
                    found.append(one)
                taken = one.add(body, LARGE_BYTES)
            except UNENCODABLE:
                taken = body
            else:
                if taken.__class__ is int:
                    count += 1
                    size += taken
                    if count == MOST_GATHERED or size > MOST_BYTES:
                        yield from take()
                    continue
            fields = stamped(to, name, taken, began_us, Terms(sender, expiry))
            yield from take()
            yield shard(to), fields
    except Exception:
        yield from take()
        raise
    yield from take()


class Terms(NamedTuple):
    """What is said of a message besides whom it goes to and what it says.

    Attributes:
        sender: the agent that sends it, if one does.
        expiry: when it expires, if it does.
        id: what it can be cancelled by; "" for nothing.
    """

    sender: str = ""
    expiry: Expiry | None = None
    id: str = ""


#: Of a client's message that neither expires nor has an id.
PLAIN = Terms()


def stamped(to: str, name: str, body: Any, sent_us: int, terms: Terms) -> tuple[Any, ...]:
    """The fields of a message that nobody waits for, trailing defaults left out; see `wire.Message`."""
    if terms is PLAIN:
        return (to, name, body, sent_us)
    sender, expiry, id = terms
    if expiry is not None or id:
        headers = {ID_HEADER: id} if id else None
        return (to, name, body, sent_us, sender, "", 0, headers, expiry.at_us(sent_us) if expiry is not None else 0)
    return (to, name, body, sent_us, sender) if sender else (to, name, body, sent_us)
