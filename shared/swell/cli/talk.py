"""`swell send` and `swell ask`: one message from the command line."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from swell.cli.show import as_json, console, duration
from swell.cli.target import Target, connected
from swell.errors import ConfigError

if TYPE_CHECKING:
    from swell.client import Client

#: A wait that is longer is told of, seconds.
SILENT_S = 2.0

Body = Annotated[
    str | None,
    Parameter(allow_leading_hyphen=True, help="The body as JSON, '-' to read it from stdin; null if not given."),
]
To = Annotated[str, Parameter(help="The agent, type/key.")]
Name = Annotated[str, Parameter(help="The handler.")]


def send(to: To, name: Name, body: Body = None, /, *, target: Target = Target()) -> None:  # noqa: B008
    """Send one message to an agent; returns when it is durable."""
    check_agent(to)
    # Read before the loop runs: a Ctrl-C ends a wait for stdin at once only outside of it.
    asyncio.run(_send(to, name, parse_json("body", body), target))


async def _send(to: str, name: str, body: Any, target: Target) -> None:
    async with connected(target) as client:
        began = time.monotonic()
        await client.send(to, name, body)
        took_s = time.monotonic() - began
    if target.json:
        as_json({"to": to, "name": name, "durable_s": took_s})
    else:
        console().print(f"sent to {to}, durable after {duration(took_s)}")


def ask(
    to: To,
    name: Name,
    body: Body = None,
    /,
    *,
    timeout: Annotated[float, Parameter(help="Limit, seconds.")] = 30.0,
    target: Target = Target(),  # noqa: B008
) -> None:
    """Send one message to an agent and print the handler's result, as JSON."""
    check_agent(to)
    if timeout <= 0:
        raise ConfigError("timeout", f"{timeout:g} must be more than 0 seconds")
    asyncio.run(_ask(to, name, parse_json("body", body), timeout, target))


async def _ask(to: str, name: str, body: Any, timeout: float, target: Target) -> None:
    async with connected(target) as client, asyncio.TaskGroup() as group:
        telling = group.create_task(_tell_of_waiting(client, to, timeout))
        try:
            answer: Any = await client.ask(to, name, body, timeout=timeout)
        finally:
            telling.cancel()
    as_json(answer)


async def _tell_of_waiting(client: Client, to: str, timeout: float) -> None:
    """Say what is waited for, if it takes longer than people expect."""
    await asyncio.sleep(SILENT_S)
    nobody = "" if await client.workers() else "; no worker is alive (start `swell up` or `swell worker`)"
    sys.stderr.write(f"swell: waiting for {to} to answer, {timeout:g} s at most{nobody}\n")


def parse_json(what: str, text: str | None) -> Any:
    """JSON from the command line, or from stdin if it is `-`; None if nothing was given.

    Raises:
        ConfigError: it is not JSON; the text says how a string is written.
    """
    if text is None:
        return None
    if text == "-":
        text = sys.stdin.read()
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ConfigError(
            what, f"{text[:60]!r} is not JSON ({error}); a string needs its quotes, for example '\"text\"'"
        ) from None


def check_agent(id: str) -> str:
    """Return `id` if it can be an agent's.

    Raises:
        ConfigError: it is not `type/key`.
    """
    from swell.keys import SEGMENT

    parts = id.split("/")
    if len(parts) != 2 or not all(SEGMENT.match(part) for part in parts):
        raise ConfigError("agent", f"{id!r} must be type/key, for example echo/0000")
    return id
