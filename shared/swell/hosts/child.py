"""One process that runs one function for a worker: `python -m swell.hosts.child MODULE:NAME`. See `processes.py`.

What the function prints goes to the worker's error output: the way out is for answers alone.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any

import msgspec

from swell.agent import parameter_type
from swell.app import import_here
from swell.hosts.processes import LENGTH, Outcome

#: Characters of a traceback that go back: the end, where the error is.
KEEP_TRACEBACK = 8000


def main(target: str) -> None:
    """Answer calls until the worker closes our input."""
    source = sys.stdin.buffer
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        try:
            call = _find(target)
            body_type = _body_type(call)
        except Exception as error:  # noqa: BLE001 - whatever a module raises when it is imported
            _answer(out, _failed(error))
            return
        _answer(out, Outcome(True, _raw(None)))
        while len(size := source.read(LENGTH)) == LENGTH:
            _answer(out, _outcome(call, body_type, source.read(int.from_bytes(size, "big"))))


def _find(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    found: Any = import_here(module)
    for part in name.split("."):
        found = getattr(found, part)
    call: Callable[..., Any] = found
    return call


def _body_type(call: Callable[..., Any]) -> Any:
    """A tuple type of what the function takes: one body, or nothing."""
    body = parameter_type(call, before=0)
    return tuple[()] if body is None else tuple[body]  # type: ignore[valid-type]


def _outcome(call: Callable[..., Any], body_type: Any, body: bytes) -> Outcome:
    try:
        return Outcome(True, _raw(call(*msgspec.msgpack.decode(body, type=body_type))))
    except Exception as error:  # noqa: BLE001 - whatever the function raises becomes its message's outcome
        return _failed(error)


def _failed(error: Exception) -> Outcome:
    trace = "".join(traceback.format_exception(error))[-KEEP_TRACEBACK:]
    return Outcome(False, _raw(f"{type(error).__name__}: {error}"), trace)


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))


def _answer(out: IO[bytes], outcome: Outcome) -> None:
    encoded = msgspec.msgpack.encode(outcome)
    out.write(len(encoded).to_bytes(LENGTH, "big") + encoded)
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
