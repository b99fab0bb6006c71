"""Which plans are taken, and what keys their agents get: decisions only."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from swell.keys import SEGMENT
from swell.wire import PlanRequest

#: Agents of one plan.
MAX_AGENTS = 100_000
MAX_SECONDS = 3600.0
#: Bytes of `args`, encoded: the server and the workers keep them for each agent.
MAX_ARGS_BYTES = 65_536
#: A key that reads as a number below this moves its type's count behind it, so that counting never meets it.
MAX_COUNTED = 1_000_000

_NAME = "must be 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"


class Refusal(Exception):
    """A plan that contradicts itself.

    Attributes:
        field: what to change.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


def check(request: PlanRequest) -> None:
    """Check every field of a request alone and those that belong together.

    Raises:
        Refusal: the first field that is wrong.
    """
    for field, value in (("id", request.id), ("type", request.type)):
        if not SEGMENT.match(value):
            raise Refusal(field, f"{value!r} {_NAME}")
    if len(request.args) > MAX_ARGS_BYTES:
        raise Refusal("args", f"{len(request.args)} bytes are more than {MAX_ARGS_BYTES}: give a reference to the data")
    _check_keys(request.keys)
    if request.keys and request.count not in (0, len(request.keys)):
        raise Refusal("count", f"{request.count} is not the number of keys, {len(request.keys)}: leave one of them out")
    bounds: tuple[tuple[str, float, float], ...] = (
        ("count", 0 if request.keys else 1, MAX_AGENTS),
        ("wave_size", 1, MAX_AGENTS),
        ("max_in_flight", 1, MAX_AGENTS),
        ("pause_s", 0, MAX_SECONDS),
        ("abort_ratio", 0, 1),
        ("timeout_s", 0, MAX_SECONDS),
    )
    for field, least, most in bounds:
        value = getattr(request, field)
        # So written, NaN is refused too.
        if not least <= value <= most:
            raise Refusal(field, f"{value:g} is not between {least:g} and {most:g}")
    if not request.timeout_s:
        raise Refusal("timeout_s", "0 leaves no time to start in")


def fill(request: PlanRequest, next_key: int) -> tuple[PlanRequest, int]:
    """Give each agent its key.

    Args:
        request: one that `check` accepts.
        next_key: where the type's count has arrived.

    Returns:
        the request with `keys` and `count`, and where the type's count is then.
    """
    keys = request.keys
    if keys:
        taken = [int(key) for key in keys if _counted(key)]
        next_key = max(next_key, *(number + 1 for number in taken)) if taken else next_key
    else:
        keys = [f"{number:04d}" for number in range(next_key, next_key + request.count)]
        next_key += request.count
    return msgspec.structs.replace(request, keys=keys, count=len(keys)), next_key


def only_joins(request: PlanRequest) -> bool:
    """Whether a request asks to hear of a plan that is there, and for nothing to be started: it has an id alone."""
    return not (request.type or request.count or request.keys)


def same_plan(one: PlanRequest, other: PlanRequest) -> bool:
    """Whether `other` may join `one`: the same type and number (an id names one plan only), or its id alone."""
    if only_joins(other):
        return True
    return one.type == other.type and (one.count or len(one.keys)) == (other.count or len(other.keys))


def _check_keys(keys: Sequence[str]) -> None:
    if len(keys) > MAX_AGENTS:
        raise Refusal("keys", f"{len(keys)} are more than {MAX_AGENTS}")
    seen = set()
    for at, key in enumerate(keys):
        if not SEGMENT.match(key):
            raise Refusal(f"keys[{at}]", f"{key!r} {_NAME}")
        if key in seen:
            raise Refusal(f"keys[{at}]", f"{key!r} is there twice")
        seen.add(key)


def _counted(key: str) -> bool:
    """Whether a key is one that counting could give."""
    return key.isascii() and key.isdigit() and len(key) <= 6 and f"{int(key):04d}" == key and int(key) < MAX_COUNTED
