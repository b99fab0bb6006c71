"""`swell send` and `swell ask`: one message from the command line."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from swell.cli import FAILED
from swell.cli.show import as_json, console, duration
from swell.cli.target import Target, connected
from swell.errors import ConfigError
from swell.expiry import MOST_S
from swell.priority import Priority

if TYPE_CHECKING:
    from swell.client import Client

#: A wait that is longer is told of, seconds.
SILENT_S = 2.0

Body = Annotated[
    str | None,
    Parameter(allow_leading_hyphen=True, help="The body as JSON, '-' to read it from stdin; null if not given."),
]
Wait = Annotated[
    float | None,
    Parameter(help="The most to wait while the shard is full, or the server away, seconds. No limit if not given."),
]
Key = Annotated[str, Parameter(help="Names the message: sent again under the same key within a day, it is sent once.")]
Ttl = Annotated[
    float | None,
    Parameter(
        help="The message is worth handling for so long, seconds; then it expires unhandled. For ever if not given."
    ),
]
Deadline = Annotated[
    str | None, Parameter(help="The same as a moment, in ISO 8601 with a time zone; give one of the two.")
]
Urgency = Annotated[Priority, Parameter(help="More urgent messages are read and handled before others.")]
Id = Annotated[str, Parameter(help="What `swell cancel` can name the message by.")]
To = Annotated[str, Parameter(help="The agent, type/key.")]
Name = Annotated[str, Parameter(help="The handler.")]


def send(
    to: To,
    name: Name,
    body: Body = None,
    /,
    *,
    wait: Wait = None,
    key: Key = "",
    ttl: Ttl = None,
    deadline: Deadline = None,
    delay: Annotated[float | None, Parameter(help="Send it so much later, seconds.")] = None,
    at: Annotated[str | None, Parameter(help="Send it at this moment, in ISO 8601 with a time zone.")] = None,
    id: Id = "",
    priority: Urgency = "normal",
    target: Target = Target(),  # noqa: B008
) -> None:
    """Send one message to an agent; returns when it is durable."""
    check_agent(to)
    _check_wait(wait)
    limits: dict[str, Any] = {"wait": wait, "priority": priority, **until(ttl, deadline)}
    moment = parse_moment("at", at)
    if delay is not None and moment is not None:
        raise ConfigError("delay", "give --delay or --at, not both")
    # Read before the loop runs: a Ctrl-C ends a wait for stdin at once only outside of it.
    value = parse_json("body", body)

    async def give(client: Client) -> bool:
        if delay is not None or moment is not None:
            await client.send(to, name, value, key=key, delay=delay, at=moment, id=id, **limits)
            return False
        if key and not id:
            return (await client.send_once([(to, name, value)], key, **limits)).repeated
        await client.send(to, name, value, key=key, id=id, **limits)
        return False

    asyncio.run(_send(give, to, name, target))


def _check_wait(wait: float | None) -> None:
    if wait is not None and not wait >= 0:
        raise ConfigError("wait", f"{wait:g} must be 0 seconds or more")


def check_ttl(ttl: float | None) -> None:
    """Raise a ConfigError unless `ttl` may be one."""
    if ttl is not None and not 0 < ttl <= MOST_S:
        raise ConfigError("ttl", f"{ttl:g} must be more than 0 and at most {MOST_S:.0f} seconds")


def until(ttl: float | None, deadline: str | None) -> dict[str, Any]:
    """When a message expires, as the client takes it.

    Raises:
        ConfigError: both are given, or one of them cannot be.
    """
    check_ttl(ttl)
    if ttl is not None and deadline is not None:
        raise ConfigError("ttl", "give --ttl or --deadline, not both")
    return {"ttl": ttl, "deadline": parse_moment("deadline", deadline)}


async def _send(give: Callable[[Client], Awaitable[bool]], to: str, name: str, target: Target) -> None:
    async with connected(target) as client:
        began = time.monotonic()
        repeated = await give(client)
        took_s = time.monotonic() - began
    if target.json:
        as_json({"to": to, "name": name, "durable_s": took_s, "repeated": repeated})
    elif repeated:
        console().print(f"nothing sent: {to} was sent that before, under the same key")
    else:
        console().print(f"sent to {to}, durable after {duration(took_s)}")


def ask(
    to: To,
    name: Name,
    body: Body = None,
    /,
    *,
    timeout: Annotated[float, Parameter(help="Limit, seconds.")] = 30.0,
    wait: Wait = None,
    ttl: Ttl = None,
    deadline: Deadline = None,
    id: Id = "",
    priority: Urgency = "normal",
    target: Target = Target(),  # noqa: B008
) -> None:
    """Send one message to an agent and print the handler's result, as JSON."""
    check_agent(to)
    if timeout <= 0:
        raise ConfigError("timeout", f"{timeout:g} must be more than 0 seconds")
    _check_wait(wait)
    limits: dict[str, Any] = {"wait": wait, "priority": priority, **until(ttl, deadline)}
    value = parse_json("body", body)

    async def question(client: Client) -> Any:
        return await client.ask(to, name, value, timeout=timeout, id=id, **limits)

    asyncio.run(_ask(question, to, timeout, target))


async def cancel(
    to: Annotated[str, Parameter(help="The agent, type/key; left out with --plan.")] = "",
    id: Annotated[str, Parameter(help="The id that the message was sent with.")] = "",
    /,
    *,
    plan: Annotated[str, Parameter(help="End this running plan instead; the agents that it started stay.")] = "",
    target: Target = Target(),  # noqa: B008
) -> int:
    """End a message that waits or is being handled, or a running plan; exit code 1 if there is none."""
    if bool(plan) == bool(to and id) or (plan and to):
        raise ConfigError("cancel", "give either an agent and the id of its message, or --plan")
    if to:
        check_agent(to)
    async with connected(target) as client:
        ended = (await client.cancel(plan)).state == "cancelled" if plan else await client.cancel_message(to, id)
    what = f"plan {plan}" if plan else f"message {id!r} of {to}"
    if target.json:
        as_json({"to": to, "id": id, "plan": plan, "cancelled": ended})
    elif ended:
        console().print(f"{what} is cancelled")
    else:
        sys.stderr.write(f"swell: there is no {what} that waits or runs\n")
    return 0 if ended else FAILED


async def _ask(question: Callable[[Client], Awaitable[Any]], to: str, timeout: float, target: Target) -> None:
    async with connected(target) as client, asyncio.TaskGroup() as group:
        telling = group.create_task(_tell_of_waiting(client, to, timeout))
        try:
            answer = await question(client)
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


def parse_moment(what: str, text: str | None) -> datetime | None:
    """A moment from the command line; None if none was given.

    Raises:
        ConfigError: it is no moment in ISO 8601, or has no time zone.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigError(what, f"{text[:60]!r} must be like 2027-01-31T09:00:00Z or 2027-01-31T09:00:00+01:00")
    return moment


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
