"""`swell manager`, `swell worker`, `swell metrics`: one service in the foreground, in place of this process."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from swell.cli.show import as_json
from swell.config import load


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Flags:
    """Settings as flags; what is not given comes from SWELL_* variables, then the file SWELL_CONFIG, then the default.

    There is no flag for the token: everybody on the machine sees flags. Use SWELL_TOKEN or SWELL_TOKEN_FILE.
    """

    redis: Annotated[str | None, Parameter(help="URL of the server: redis://, rediss:// (TLS) or unix://.")] = None
    namespace: Annotated[str | None, Parameter(help="The tenant; nothing crosses it.")] = None
    shards: Annotated[int | None, Parameter(help="Shards of a new namespace, 1..1024; fixed once it exists.")] = None
    app: Annotated[str | None, Parameter(help="What agents are run, module:attribute.")] = None
    durability: Annotated[str | None, Parameter(help="local, fsync or replicas:N: when a message counts as sent.")] = (
        None
    )
    lease_ms: Annotated[int | None, Parameter(help="How long a shard stays owned without a sign of life, ms.")] = None
    max_deliveries: Annotated[int | None, Parameter(help="Processes that may die with a batch before it is split.")] = (
        None
    )
    max_depth: Annotated[int | None, Parameter(help="Unsettled messages a shard may hold.")] = None
    mailbox: Annotated[int | None, Parameter(help="Messages waiting in a worker for one agent.")] = None
    buffer: Annotated[int | None, Parameter(help="Messages waiting in a worker for all agents.")] = None
    drain_s: Annotated[float | None, Parameter(help="How long stopping may take, seconds.")] = None
    host: Annotated[str | None, Parameter(help="Address that HTTP listens on; beyond 127.0.0.1 a token is due.")] = None
    port: Annotated[int | None, Parameter(help="Port that HTTP listens on; 0 takes a free one.")] = None
    http_rate: Annotated[int | None, Parameter(help="Requests a second that one address may make of HTTP.")] = None
    alerts: Annotated[str | None, Parameter(help="Thresholds of alerts: name=value,name=off,...")] = None
    log_level: Annotated[str | None, Parameter(help="debug, info, warning or error.")] = None
    log_format: Annotated[str | None, Parameter(help="auto (JSON off a terminal), json or console.")] = None
    json: Annotated[bool, Parameter(negative="", help="Print the settings as JSON first, and log in JSON.")] = False


def manager(*, flags: Flags = Flags()) -> None:
    """Run one manager in the foreground."""
    _become("swell_manager", flags)


def worker(*, flags: Flags = Flags()) -> None:
    """Run one bus-worker in the foreground."""
    _become("swell_worker", flags)


def metrics(*, flags: Flags = Flags()) -> None:
    """Run the metrics service in the foreground."""
    _become("swell_metrics", flags)


def _become(module: str, flags: Flags) -> None:
    """Replace this process by the service, so that signals and exit codes are the service's own.

    Settings travel as variables: a URL with a password must not stay in the list of processes.
    """
    given = dataclasses.asdict(flags)
    if given.pop("json"):
        given["log_format"] = "json"
        settings = load(given)
        as_json(settings.masked())
        sys.stdout.flush()
    else:
        settings = load(given)
    os.execve(sys.executable, [sys.executable, "-m", module], os.environ | settings.environ())
