"""A task as its caller gives it, checked before it is sent."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from swell.codec import raw
from swell.errors import WrongBody
from swell.expiry import expiry
from swell.keys import SEGMENT
from swell.later import check_name
from swell.priority import PRIORITIES
from swell.task import KEEP_S, MOST_KEEP_S, MOST_STEPS, Step, TaskRequest


def request_of(steps: Sequence[tuple[str, str]], body: Any, terms: dict[str, Any]) -> TaskRequest:
    """A task, checked.

    Raises:
        WrongBody: it cannot be one; the text says what to change.
    """
    given = {"key": "", "ttl": None, "deadline": None, "keep": KEEP_S, "priority": "normal", "sender": "", **terms}
    if len(given) > 6:
        raise WrongBody("", f"{', '.join(terms)}: give key, ttl, deadline, keep, priority or sender", field="terms")
    keep = given["keep"]
    if not (isinstance(keep, int | float) and 0 <= keep <= MOST_KEEP_S):
        raise WrongBody("", f"keep: {keep!r:.80} must be 0 to {MOST_KEEP_S:.0f} seconds", field="keep")
    if given["priority"] not in PRIORITIES:
        what = f"priority: {given['priority']!r} must be one of {', '.join(PRIORITIES)}"
        raise WrongBody("", what, field="priority")
    until = expiry(given["ttl"], given["deadline"])
    return TaskRequest(
        check_name("key", given["key"]) if given["key"] else secrets.token_hex(12),
        _steps(steps),
        raw(body),
        given["priority"],
        until.at_us(time.time_ns() // 1000) if until is not None else 0,
        keep,
        given["sender"],
    )


def _steps(steps: Sequence[tuple[str, str]]) -> list[Step]:
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise WrongBody("", f"steps: {steps!r:.80} is no list of (type, handler) pairs", field="steps")
    if not 1 <= len(steps) <= MOST_STEPS:
        raise WrongBody("", f"steps: {len(steps)} must be 1 to {MOST_STEPS}", field="steps")
    checked = []
    for step in steps:
        if not isinstance(step, tuple | list) or len(step) != 2:
            raise WrongBody("", f"steps: {step!r:.80} is no (type, handler) pair", field="steps")
        type, name = step
        if not isinstance(type, str) or not SEGMENT.match(type):
            raise WrongBody("", f"type: {type!r:.80} is not the name of an agent type", field="type")
        if not isinstance(name, str) or not name or name.startswith("$"):
            raise WrongBody("", f"handler: {name!r:.80} is not the name of a handler", field="handler")
        checked.append(Step(type, name))
    return checked
