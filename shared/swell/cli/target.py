"""Which server and namespace a command is about."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from swell.cli.state import UpState, data_directory, read_state
from swell.config import Settings, load
from swell.errors import BrokerError, BrokerRefused, BrokerUnavailable

if TYPE_CHECKING:
    from swell.client import Client

_GROUP = "Common options"
_DEFAULTS = Settings()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Target:
    """The options that every command has."""

    redis: Annotated[
        str | None,
        Parameter(
            group=_GROUP,
            help="URL of the server. By default SWELL_REDIS, else that of the running `swell up`, "
            "else redis://127.0.0.1:6379/0.",
        ),
    ] = None
    namespace: Annotated[
        str | None,
        Parameter(group=_GROUP, help="The tenant. By default SWELL_NAMESPACE, else 'default'."),
    ] = None
    data_dir: Annotated[
        str | None,
        Parameter(
            group=_GROUP, help="Data directory of `swell up`. By default SWELL_DATA_DIR, else one per namespace."
        ),
    ] = None
    json: Annotated[
        bool, Parameter(group=_GROUP, negative="", help="Print JSON on stdout, and nothing else there.")
    ] = False


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings that a command goes by.

    Attributes:
        settings: all of them.
        source: where the server's URL came from, for users to read.
        up: the `swell up` that runs in the data directory, if one does.
    """

    settings: Settings
    source: str
    up: UpState | None


def resolve(target: Target, environ: Mapping[str, str] | None = None) -> Resolved:
    """Find the server: the flag, then SWELL_REDIS (or its file, or the TOML file), then a running `swell up`.

    Raises:
        ConfigError: a setting is malformed.
    """
    environ = os.environ if environ is None else environ
    flags = {"redis": target.redis, "namespace": target.namespace, "data_dir": target.data_dir}
    settings = load(flags, environ)
    up = read_state(data_directory(settings, environ))
    if target.redis:
        return Resolved(settings, "--redis", up)
    if environ.get("SWELL_REDIS") or environ.get("SWELL_REDIS_FILE"):
        return Resolved(settings, "SWELL_REDIS", up)
    if settings.redis != _DEFAULTS.redis:
        return Resolved(settings, "SWELL_CONFIG", up)
    if up is None:
        return Resolved(settings, "the default", None)
    named = target.namespace or environ.get("SWELL_NAMESPACE") or settings.namespace != _DEFAULTS.namespace
    namespace = settings.namespace if named else up.namespace
    settings = dataclasses.replace(settings, redis=up.redis, namespace=namespace)
    return Resolved(settings, f"`swell up` (process {up.pid})", up)


def advised(error: BrokerError, source: str) -> BrokerError:
    """The same error, which also says what to change.

    Args:
        error: what came of the first call.
        source: where the URL came from, as `Resolved` has it.
    """
    from redis.exceptions import AuthenticationError

    from swell.bus.link import FunctionsGone

    if isinstance(error.__cause__, AuthenticationError):
        advice = "give the right user and password in the URL, redis://USER:PASSWORD@HOST:PORT (SWELL_REDIS hides it)"
        return BrokerRefused(f"{str(error).rstrip('.')}; {advice}")
    if isinstance(error, BrokerUnavailable) and not isinstance(error, FunctionsGone):
        advice = f"start that server, or name another (this one came from {source})"
        return BrokerUnavailable(f"{str(error).rstrip('.')}; {advice}")
    return error


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Client]:
    """A client of the server that the command is about.

    Raises:
        ConfigError: a setting is malformed.
        BrokerUnavailable: the server does not answer; the text says how to name another.
        BrokerRefused: it does not let us in; the text says what to change.
    """
    from swell.client import Client

    resolved = resolve(target)
    client = Client.connect(settings=resolved.settings)
    try:
        await client.__aenter__()
    except BrokerError as error:
        if resolved.source != "the default" or not isinstance(error, BrokerUnavailable):
            raise advised(error, resolved.source) from error
        where = data_directory(resolved.settings)
        raise BrokerUnavailable(
            f"{str(error).rstrip('.')}; no server was named and no `swell up` runs in {where}: "
            "start `swell up`, or give --redis"
        ) from error
    try:
        yield client
    finally:
        await client.__aexit__(None, None, None)
