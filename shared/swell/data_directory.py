"""A data directory: claimed by one `swell up` at a time, with its locks, its logs, and the ports that are free."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from swell.errors import ConfigError

#: Space that must be free in the data directory at the start: a rewrite of the append-only file begins at 64 MiB.
MIN_FREE_BYTES = 64 * 1024 * 1024
#: A log that is larger at a start is put aside, bytes.
MAX_LOG_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Claim:
    """A data directory that is ours until the `with` block of `claim` ends."""

    directory: Path

    @property
    def logs(self) -> Path:
        """Where the logs are."""
        return self.directory / "logs"


@contextlib.contextmanager
def claim(directory: Path, min_free_bytes: int = MIN_FREE_BYTES) -> Iterator[Claim]:
    """Make a data directory ours, creating it if need be (readable by its owner only).

    Raises:
        ConfigError: it cannot be written, has too little space, or another `swell up` (named by its pid) uses it.
    """
    with contextlib.ExitStack() as held:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            (directory / "logs").mkdir(mode=0o700, exist_ok=True)
            lock = open_lock(directory / "up.lock")
            held.callback(os.close, lock)
            if not take(lock):
                pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
                raise ConfigError(
                    "data_dir",
                    f"{directory} is in use by another `swell up` (process {pid}); "
                    "stop that one, or give another --data-dir or --namespace",
                )
            free = shutil.disk_usage(directory).free
            if free < min_free_bytes:
                raise ConfigError(
                    "data_dir",
                    f"{directory} has {free / 2**20:.1f} MiB free and {min_free_bytes / 2**20:.0f} MiB are needed; "
                    "make room, or give another --data-dir",
                )
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise unusable(directory, error) from error
        yield Claim(directory)


def open_lock(path: Path) -> int:
    """Open a lock file, creating it; children get it only if it is passed to them."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def take(lock: int) -> bool:
    """Lock the file; False if another process holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, for its owner only, so that a reader finds the old content or the new, never half."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.replace(path)


def unusable(directory: Path, error: OSError) -> ConfigError:
    """What the system said of the directory, as our error."""
    hint = "; make room, or give another --data-dir" if error.errno == errno.ENOSPC else "; give another --data-dir"
    return ConfigError("data_dir", f"{directory} cannot be used: {error.strerror or error}{hint}")


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[BinaryIO]:
    """Open a log to append to, for a process to inherit; one grown too large is put aside as `*.1` first."""
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    with path.open("ab") as log:
        yield log


def last_lines(path: Path, start: int = 0, count: int = 5) -> str:
    """The last lines of a log behind byte `start`."""
    with path.open("rb") as log:
        log.seek(max(start, path.stat().st_size - 8192))
        lines = log.read().decode(errors="replace").splitlines()
    return "\n".join(line for line in lines[-count:] if line.strip())


def port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port` now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port on 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
