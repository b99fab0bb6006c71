"""What a running `swell up` leaves for other commands to find: `up.json` in its data directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from swell.config import Settings
from swell.data_directory import write_whole

_NAME = "up.json"


class UpState(msgspec.Struct):
    """Where everything of one `swell up` is.

    Attributes:
        pid: the `swell up` itself.
        redis: URL of the server, usable (the file is readable by its owner only).
        namespace: the tenant.
        app: what agents the workers run.
        data_dir: the data directory.
        logs: the directory of the logs, one `<name>.log` each.
        embedded: whether the server is ours.
        adopted: whether the server had been left running by a `swell up` that was killed.
        http: name of each service -> its address.
        pids: name of each service, and `server`, -> its process now.
        ready_s: from the command to ready, seconds.
    """

    pid: int
    redis: str
    namespace: str
    app: str
    data_dir: str
    logs: str
    embedded: bool
    adopted: bool = False
    http: dict[str, str] = {}
    pids: dict[str, int] = {}
    ready_s: float = 0.0


def data_directory(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """The data directory: as set, else $XDG_STATE_HOME/swell/<namespace>, else ~/.local/state/swell/<namespace>."""
    environ = os.environ if environ is None else environ
    if settings.data_dir:
        return Path(settings.data_dir).expanduser().absolute()
    home = environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and is ignored.
    state = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return state / "swell" / settings.namespace


def write_state(state: UpState) -> None:
    """Write `up.json`."""
    write_whole(Path(state.data_dir) / _NAME, msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")


def read_state(directory: Path) -> UpState | None:
    """Read `up.json`; None if there is none, or the `swell up` that wrote it has ended."""
    try:
        state = msgspec.json.decode((directory / _NAME).read_bytes(), type=UpState)
        os.kill(state.pid, 0)
    except (OSError, msgspec.MsgspecError):
        return None
    return state


def remove_state(directory: Path) -> None:
    """Remove `up.json`."""
    (directory / _NAME).unlink(missing_ok=True)
