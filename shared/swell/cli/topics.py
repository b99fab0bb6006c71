"""`swell publish`, `broadcast`, `subscribe`, `unsubscribe` and `subscriptions`: events from the command line."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from swell.cli import FAILED
from swell.cli.show import as_json, console, table, whole
from swell.cli.talk import Body, Deadline, Key, Name, To, Ttl, Urgency, check_agent, parse_json, until
from swell.cli.target import Target, connected
from swell.topics import Pick, check_topic
from swell.where import parse_where

Topic = Annotated[str, Parameter(help="1 to 16 segments joined by dots.")]
Pattern = Annotated[str, Parameter(help="A topic in which * stands for one segment and ** for any number of them.")]
Group = Annotated[str, Parameter(help="One of all that subscribe under this name gets each event.")]


async def publish(
    topic: Topic,
    body: Body = None,
    /,
    *,
    key: Key = "",
    ttl: Ttl = None,
    deadline: Deadline = None,
    priority: Urgency = "normal",
    target: Target = Target(),  # noqa: B008
) -> None:
    """Publish an event; returns when it is durable."""
    check_topic(topic)
    terms: dict[str, Any] = {"key": key, "priority": priority, **until(ttl, deadline)}
    value = parse_json("body", body)
    async with connected(target) as client:
        await client.publish(topic, value, **terms)
    if target.json:
        as_json({"topic": topic, "published": True})
    else:
        console().print(f"published to {topic}")


async def broadcast(
    name: Name,
    body: Body = None,
    /,
    *,
    type: Annotated[str, Parameter(help="Of the agents; all types that have such a handler if not given.")] = "",
    key: Key = "",
    ttl: Ttl = None,
    deadline: Deadline = None,
    priority: Urgency = "normal",
    target: Target = Target(),  # noqa: B008
) -> None:
    """Send a message to all agents of a type, or to all that have such a handler."""
    terms: dict[str, Any] = {"key": key, "priority": priority, **until(ttl, deadline)}
    value = parse_json("body", body)
    async with connected(target) as client:
        await client.broadcast(name, value, type=type, **terms)
    if target.json:
        as_json({"name": name, "type": type, "sent": True})
    else:
        console().print(f"sent {name!r} to all agents" + (f" of type {type}" if type else " that have such a handler"))


async def subscribe(
    to: To,
    topic: Pattern,
    name: Name,
    /,
    *,
    where: Annotated[
        tuple[str, ...],
        Parameter(help="Only events whose body this holds for, such as 'size > 100'; several are joined by `and`."),
    ] = (),
    group: Group = "",
    pick: Annotated[Pick, Parameter(help="To which of the group.")] = "round_robin",
    target: Target = Target(),  # noqa: B008
) -> None:
    """Have events call an agent's handler from now on."""
    check_agent(to)
    condition = parse_where(where)
    async with connected(target) as client:
        await client.subscribe(to, topic, name, where=condition, group=group, pick=pick)
    if target.json:
        as_json({"agent": to, "topic": topic, "handler": name, "group": group})
    else:
        console().print(f"{topic} calls {name!r} of {to}")


async def unsubscribe(
    to: To,
    topic: Pattern,
    name: Name,
    /,
    *,
    group: Group = "",
    target: Target = Target(),  # noqa: B008
) -> int:
    """Take a subscription back that was made at run time; exit code 1 if there is none."""
    check_agent(to)
    async with connected(target) as client:
        removed = await client.unsubscribe(to, topic, name, group=group)
    if target.json:
        as_json({"agent": to, "topic": topic, "handler": name, "removed": removed})
    elif removed:
        console().print(f"{topic} no longer calls {name!r} of {to}")
    else:
        sys.stderr.write(f"swell: {to} has no such subscription to {topic}\n")
    return 0 if removed else FAILED


async def subscriptions(
    agent: Annotated[str, Parameter(help="Only this agent's.")] = "",
    /,
    *,
    limit: Annotated[int, Parameter(help="At most so many.")] = 1000,
    target: Target = Target(),  # noqa: B008
) -> None:
    """List subscriptions that were made at run time; those that classes declare are in the app."""
    async with connected(target) as client:
        found = await client.subscriptions(agent, limit)
    if target.json:
        as_json([whole(one) for one in found])
        return
    rows = [
        (
            one.agent,
            one.topic,
            one.handler,
            msgspec.json.encode(one.where).decode() if one.where is not None else "",
            f"{one.group} ({one.pick})" if one.group else "",
        )
        for one in found
    ]
    table(("agent", "topic", "handler", "where", "group"), rows, "no subscriptions were made at run time")
