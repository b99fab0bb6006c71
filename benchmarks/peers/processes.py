"""The processes of a comparison: a server of its own, a worker and a sender; all ended by their ids."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import search_path
from swell.data_directory import free_port
from swell.embedded import find_binary

#: A process that was asked to end has ended by then, seconds; later it is killed.
STOP_S = 3.0
#: A server answers by then, seconds.
SERVER_S = 10.0
#: Lines of a process's log that its error shows.
TAIL = 6


class PeerFailed(Exception):
    """A system could not do its work; the message says why."""


class Child:
    """A process of `benchmarks.peers.entry`, asked by lines of JSON.

    Args:
        python: the interpreter of its virtual environment.
        arguments: role, name and URL.
        log: where its standard error goes.
    """

    def __init__(self, python: Path, arguments: list[str], log: Path) -> None:
        self._log = log
        self._answers: queue.Queue[str] = queue.Queue()
        with log.open("wb") as errors:
            # A session of its own: Ctrl-C reaches the harness only, which ends its children in order.
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.peers.entry", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=log.parent,
                env=search_path(),
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, timeout_s: float, **command: object) -> dict[str, Any]:
        """Give a command and wait for the answer.

        Raises:
            PeerFailed: the process ended, or did not answer in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout_s)
        except OSError:
            line = ""
        except queue.Empty:
            raise PeerFailed(f"no answer to {command} within {timeout_s:g} s: {self._tail()}") from None
        if not line:
            raise PeerFailed(f"ended: {self._tail()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _tail(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").strip().splitlines()[-TAIL:]) or "it said nothing"

    def close(self) -> None:
        """End it."""
        end(self._process)
        # The reader ends with the output, which a grandchild may still hold.
        self._reader.join(STOP_S)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


def end(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def server(directory: Path, aof: bool) -> Iterator[str]:
    """A server on a free port of the loopback; yields its URL.

    Args:
        directory: for its data.
        aof: whether it keeps an append-only file (everysec).
    """
    port = free_port()
    options = {"--port": str(port), "--bind": "127.0.0.1", "--dir": str(directory), "--save": ""}
    options |= {"--appendonly": "yes" if aof else "no", "--appendfsync": "everysec", "--maxmemory-policy": "noeviction"}
    process = subprocess.Popen(
        [find_binary(), *(word for option in options.items() for word in option)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_server(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        end(process)


def _await_server(port: int) -> None:
    import redis

    deadline = time.monotonic() + SERVER_S
    with redis.Redis(port=port) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


def server_version() -> str:
    """What the server that is measured calls itself."""
    said = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True)
    return " ".join(said.stdout.split()[:3])
