"""From a failed attempt to its outcome: retry in place, or a dead letter.

The common case, a handler that returns, is in `cell.py`; what is here runs only when something went wrong.

    resolve --no such handler--------> unknown_handler --+
    decode  --does not fit-----------> wrong_body -------+--> dead letter, and the asker is told
    perform --raised or timed out----> retry, backoff ---+
                                       last attempt -----+   handler_failed
"""

from __future__ import annotations

import difflib
import traceback as tracebacks
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec import Raw

from swell import letters
from swell.app import AgentType
from swell.bus.entry import Entry
from swell.codec import UNDECODABLE
from swell.logs import visible
from swell.wire import Death, Failure, Message

#: Characters of a traceback that a dead letter keeps: the end, where the error is.
KEEP_TRACEBACK = 8000
#: Characters of an error's own text that a dead letter keeps.
KEEP_TEXT = 2000


class TimeLimit(Exception):
    """The watchman cancelled the handler."""


@dataclass(slots=True)
class Failed:
    """Why a message ends as a dead letter.

    Attributes:
        kind: a key of `swell.errors.FAILURES`.
        reason: one line for people; control characters are written out.
        attempts: runs of the handler.
        traceback: of the last attempt.
        detail: fields of the error at the asker.
    """

    kind: str
    reason: str
    attempts: int = 0
    traceback: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The reason quotes what came in messages and errors: one line, and nothing in it that moves a cursor."""
        self.reason = visible(self.reason)


def unknown_handler(type: AgentType, name: str) -> Failed:
    """No handler of that name; the text lists those there are."""
    having = sorted(type.handlers)
    near = difflib.get_close_matches(name, having, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return Failed(
        "unknown_handler",
        f"agents of type {type.name!r} have no handler {name!r}, only {', '.join(having) or 'none'}{hint}",
        detail={"handler": name},
    )


def decoded(decode: Callable[[Raw], Any], body: Raw) -> Any:
    """What a body is as the user's type. Its own checks are the user's code: what they raise is an `Exception` here."""
    try:
        return decode(body)
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def wrong_body(type: str, name: str, error: Exception) -> Failed:
    """The body does not fit; msgspec's text ends in the path of the field."""
    text = _text(error)
    path = text.rpartition(" - at `")[2].rstrip("`") if " - at `" in text else "$"
    return Failed(
        "wrong_body",
        f"the body for {type}.{name} does not fit: {text}",
        detail={"handler": name, "field": path},
    )


def handler_failed(name: str, attempts: int, error: BaseException, timeout_s: float | None) -> Failed:
    """The last attempt raised, or was cancelled at its time limit."""
    ran_out = isinstance(error, TimeLimit)
    text = f"ran longer than {timeout_s:g} s" if ran_out else f"{type(error).__name__}: {_text(error)}"
    trace = visible(_plain("".join(tracebacks.format_exception(error))[-KEEP_TRACEBACK:]), keep="\n\t")
    return Failed(
        "handler_failed",
        f"{name!r} failed {attempts} time{'s' if attempts != 1 else ''}, at last: {text}",
        attempts,
        trace,
        {"handler": name, "attempts": attempts, "traceback": trace},
    )


def _text(error: BaseException) -> str:
    """What an error says of itself, cut to KEEP_TEXT; its `__str__` is the user's code and may raise."""
    try:
        text = str(error)
    except Exception as again:  # noqa: BLE001 - the text says so
        text = f"(its text cannot be had: {type(again).__name__})"
    return _plain(text if len(text) <= KEEP_TEXT else text[:KEEP_TEXT] + "...")


def _plain(text: str) -> str:
    """Text that can be encoded: names of files may hold surrogates, which UTF-8 has no bytes for."""
    return text.encode("utf-8", "backslashreplace").decode()


def letter(entry: Entry, index: int, message: Message, failed: Failed) -> bytes:
    """The dead letter of a message, encoded."""
    death = Death(failed.kind, failed.reason, failed.attempts)
    return letters.letter(entry, index, message, death, failed.traceback)


def failure(message: Message, failed: Failed) -> Failure:
    """What the asker is told."""
    return Failure(failed.kind, failed.reason[: letters.KEEP_OWN_REASON], message.to, failed.detail)


#: Raised by msgspec when a body does not fit, or is no MessagePack.
BodyErrors = UNDECODABLE
