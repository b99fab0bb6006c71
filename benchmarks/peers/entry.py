"""The two processes of a system: `python -m benchmarks.peers.entry work|send NAME URL`. Standard library only.

With `facts NAME` instead it prints what is to be known about the system, and ends.

Both take one JSON command a line on standard input and answer with one JSON line on standard output; what the system
itself prints goes to standard error. The end of the input ends the process, so nothing survives the harness.

    work: {"do": "account"}                                    what the handlers took
    send: {"do": "flood", "count": N}                          send N as fast as possible
          {"do": "rate", "rate": R, "seconds": S}              send R a second, each when it is due
          {"do": "ask", "askers": A, "seconds": S}             A askers, each asks again when it is answered
          {"do": "left"}                                       what the system still holds
          {"do": "account"}                                    as above, for a system with no worker process
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import IO, Any, cast

from benchmarks.peers.contract import PLAIN, Peer, Sender, meter, run, stamped

Answer = dict[str, Any]
#: Sends under way at once at a given rate; those that are due wait, and their wait counts as latency.
IN_FLIGHT = 100
#: A sender that cannot keep the rate goes on for so long after the time is over, seconds.
GRACE_S = 1.0


def private_output() -> IO[str]:
    """Keep standard output for the answers; all else that is printed goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def listen(answers: IO[str]) -> None:
    """Answer for the meter of a worker; ends the process with the input."""
    for _ in sys.stdin:
        answers.write(json.dumps(meter.account()) + "\n")
    os._exit(0)


async def flood(sender: Sender, count: int, bulk: int) -> Answer:
    """Send `count`, `bulk` at a time."""
    began = time.monotonic_ns()
    for start in range(0, count, bulk):
        await sender.send_all([PLAIN] * min(bulk, count - start))
    return {"began_ns": began, "sent": count}


async def at_rate(sender: Sender, rate: int, seconds: float) -> Answer:
    """Open loop: each message is due at a time of its own, whatever became of those before."""
    total = int(rate * seconds)
    room = asyncio.Semaphore(IN_FLIGHT)
    sent = 0
    began = time.monotonic_ns()
    give_up = began + int((seconds + GRACE_S) * 1e9)

    async def one(due: int) -> None:
        try:
            await sender.send(stamped(due))
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        while sent < total:
            due = began + sent * 1_000_000_000 // rate
            now = time.monotonic_ns()
            if now > give_up:
                break
            if due > now:
                await asyncio.sleep((due - now) / 1e9)
            await room.acquire()
            group.create_task(one(due))
            sent += 1
    return {"began_ns": began, "sent": sent, "due": total}


async def ask(sender: Sender, askers: int, seconds: float) -> Answer:
    """Closed loop of round trips; those under way at the end are awaited and counted."""
    took_us: list[int] = []
    began = time.monotonic_ns()
    until = began + int(seconds * 1e9)

    async def asker() -> None:
        while (asked := time.monotonic_ns()) < until:
            answer = await sender.ask(PLAIN)
            if answer != PLAIN:
                raise ValueError(f"asked {PLAIN!r}, was answered {answer!r}")
            took_us.append((time.monotonic_ns() - asked) // 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(askers):
            group.create_task(asker())
    return {"took_us": took_us, "seconds": (time.monotonic_ns() - began) / 1e9}


async def send(peer: Peer, url: str, answers: IO[str]) -> None:
    """Do what the commands say."""
    loop = asyncio.get_running_loop()
    async with peer.sender(url) as sender:
        account = cast("Callable[[], Awaitable[Answer]] | None", getattr(sender, "account", None))
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            match json.loads(line):
                case {"do": "flood", "count": count}:
                    answer = await flood(sender, count, peer.FACTS.bulk)
                case {"do": "rate", "rate": rate, "seconds": seconds}:
                    answer = await at_rate(sender, rate, seconds)
                case {"do": "ask", "askers": askers, "seconds": seconds}:
                    answer = await ask(sender, askers, seconds)
                case {"do": "account"}:
                    answer = await account() if account else meter.account()
                case {"do": "left"}:
                    answer = {"left": await sender.left()}
                case other:
                    raise ValueError(f"unknown command {other!r}")
            answers.write(json.dumps(answer) + "\n")


def main() -> None:
    """Be one of the two processes."""
    role, name, url = (*sys.argv[1:], "")[:3]
    answers = private_output()
    # A module is a Peer; that it is one is checked by its use.
    peer = cast("Peer", importlib.import_module(f"benchmarks.peers.{name}"))
    if role == "facts":
        answers.write(json.dumps(asdict(peer.FACTS)) + "\n")
    elif role == "work":
        threading.Thread(target=listen, args=[answers], daemon=True).start()
        peer.work(url)
    else:
        run(send(peer, url, answers))


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        raise
