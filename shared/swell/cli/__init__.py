"""The command `swell`. Commands are imported when they are called, so that `swell --help` costs little."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

from swell.errors import AppError, CallError, ConfigError, PlanAborted, SwellError

#: When the command began, on the monotonic clock: "ready in" counts from here.
BEGAN = time.monotonic()

#: Exit codes: something went wrong; the call or a setting is wrong; Ctrl-C; the reader of our output went away.
FAILED, MISUSED, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

#: Options that may also stand before the command, and whether a value follows.
_LEADING = {"--redis": True, "--namespace": True, "--data-dir": True, "--json": False}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted."""
    try:
        code = _run(hoist(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # `swell agents | head`: nobody reads, and Python's own flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    from cyclopts import CycloptsError

    from swell.cli.commands import app

    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return complain(error, MISUSED)
    except SwellError as error:
        return complain(error)
    except BaseExceptionGroup as group:
        known = next((leaf for leaf in leaves(group) if isinstance(leaf, SwellError | BrokenPipeError)), None)
        if known is None:
            raise
        if isinstance(known, BrokenPipeError):
            raise known from None
        return complain(known)
    return result if isinstance(result, int) else 0


def complain(error: Exception | str, code: int = FAILED) -> int:
    """Say on stderr what went wrong; returns the exit code that fits it.

    The text may be that of a handler's error, so nothing in it may command the terminal, or pass for a line of ours.
    """
    from swell.cli.show import clean

    text = str(error).strip()
    lines = [text] if isinstance(error, CallError | PlanAborted) else text.split("\n")
    sys.stderr.write("swell: " + "\n".join(clean(line.expandtabs()) for line in lines) + "\n")
    return MISUSED if isinstance(error, ConfigError | AppError) else code


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """All exceptions in a group that are no groups themselves."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def hoist(arguments: Sequence[str]) -> list[str]:
    """Move the options that stand before the command behind it: `swell --json agents` is `swell agents --json`."""
    rest = list(arguments)
    leading: list[str] = []
    while rest:
        name, equals, _ = rest[0].partition("=")
        if name not in _LEADING:
            break
        taken = 2 if _LEADING[name] and not equals else 1
        leading += rest[:taken]
        del rest[:taken]
    words = 2 if rest[:1] in (["dead"], ["facts"]) and rest[1:2] and not rest[1].startswith("-") else 1
    return rest[:words] + leading + rest[words:]


__all__ = ["main"]
