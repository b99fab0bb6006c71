"""A question that goes to several inboxes of a shard at once: nobody knows in which it lies what it is about.

question --> critical: read at once    --no--+
         --> high, normal, low         --no--+--> no, when all have answered
                |                                     yes, as soon as one says so: no backlog is waited for
                +-- behind what it is about, so read after it
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable

from msgspec import Raw

from swell.codec import decode
from swell.errors import SwellError


async def first_true(questions: Iterable[Awaitable[Raw]]) -> bool:
    """Whether one of these is answered with yes; the others are waited for no longer.

    Raises:
        SwellError: none was, and one has failed.
    """
    asking = [asyncio.ensure_future(question) for question in questions]
    failed: SwellError | None = None
    try:
        for answered in asyncio.as_completed(asking):
            try:
                if decode(await answered, bool):
                    return True
            except SwellError as error:
                failed = error
    finally:
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    if failed is not None:
        raise failed
    return False
