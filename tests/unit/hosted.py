"""Functions that the tests run in processes: children import this module by its name."""

from __future__ import annotations

import os
import signal
import time

import msgspec


class Pair(msgspec.Struct):
    a: int
    b: int


def add(body: Pair) -> int:
    return body.a + body.b


def process(body: str) -> int:
    """Prints, too: that must not come between."""
    print("noise on the way out")
    return os.getpid()


def die(body: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(body: str) -> None:
    raise ValueError(f"no {body}")


def note_and_hang(body: str) -> None:
    with open(body, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)


def huge(body: int) -> str:
    return "x" * body
