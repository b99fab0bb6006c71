"""`swell up`: the whole system on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from swell.cli import BEGAN
from swell.cli.show import as_json, clean, console, whole
from swell.cli.state import UpState, data_directory
from swell.cli.system import System, Wanted
from swell.cli.target import Target
from swell.config import Settings, load, mask_url
from swell.errors import ConfigError

#: Workers that fit a small machine; more than cores help nobody.
MAX_WORKERS = 256


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What `swell up` runs."""

    workers: Annotated[int, Parameter(help="How many workers.")] = 1
    app: Annotated[str | None, Parameter(help="What agents they run, module:attribute. By default swell.echo:app.")] = (
        None
    )
    shards: Annotated[int | None, Parameter(help="Shards of a new namespace, 1..1024.")] = None
    port: Annotated[
        int | None,
        Parameter(help="The manager's port; metrics and workers take the next. By default 8700, or the next free."),
    ] = None


def up(*, options: Options = Options(), target: Target = Target()) -> int:  # noqa: B008
    """Run the whole system on this machine until Ctrl-C: a server (unless --redis is given) and all services.

    A service that ends is started again. A second Ctrl-C ends everything at once.
    """
    settings, embedded = _settings(options, target)
    if not 1 <= options.workers <= MAX_WORKERS:
        raise ConfigError("workers", f"{options.workers} is not between 1 and {MAX_WORKERS}")
    from swell.app import load_app

    load_app(settings.app)
    wanted = Wanted(
        settings=settings,
        workers=options.workers,
        embedded=embedded,
        directory=data_directory(settings),
        port=settings.port or None,
        began=BEGAN,
    )
    asyncio.run(_run(wanted, _Teller(target.json)))
    return 0


def _settings(options: Options, target: Target) -> tuple[Settings, bool]:
    """The settings of all services, and whether the server is to be ours: only if none is named."""
    given = {"redis": target.redis, "namespace": target.namespace, "data_dir": target.data_dir}
    given |= {"app": options.app, "shards": options.shards, "port": options.port}  # type: ignore[dict-item]
    settings = load(given)
    named = target.redis or os.environ.get("SWELL_REDIS") or os.environ.get("SWELL_REDIS_FILE")
    default = next(f.default for f in dataclasses.fields(Settings) if f.name == "redis")
    return settings, not named and settings.redis == default


async def _run(wanted: Wanted, teller: _Teller) -> None:
    system = System(wanted, teller)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        # Act first, speak then: after a hang-up there is nobody to speak to.
        if stop.is_set():
            system.kill()
            teller.note("ending everything at once")
        else:
            stop.set()
            teller.note("stopping (again to end everything at once)")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked)
    await system.run(stop)


class _Teller:
    """Says on stdout where everything is, and on stderr what happens."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def note(self, text: str) -> None:
        """Something that users should know."""
        with contextlib.suppress(OSError):  # a closed terminal must not end the system halfway
            sys.stderr.write(f"swell: {text}\n")
            sys.stderr.flush()

    def ready(self, state: UpState) -> None:
        """Everything is ready."""
        if self._as_json:
            as_json(whole(state) | {"redis": mask_url(state.redis)})
        else:
            _show(state)
        sys.stdout.flush()


def _show(state: UpState) -> None:
    from rich.table import Table

    out = console()
    kind = "embedded, adopted" if state.adopted else "embedded" if state.embedded else "given"
    out.print(f"ready in {state.ready_s:.1f} s: namespace {state.namespace}, app {clean(state.app)}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("what", "where", "process"):
        table.add_column(column, overflow="fold")
    table.add_row(f"server ({kind})", mask_url(state.redis), str(state.pids.get("server", "")))
    for name, http in state.http.items():
        table.add_row(name, http, str(state.pids[name]))
    table.add_row("data", state.data_dir, "")
    table.add_row("logs", state.logs, "")
    table.add_row("swell up", "Ctrl-C stops everything", str(state.pid))
    out.print(table)
