"""The manager's HTTP for topics."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get, post
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from swell.client import Client
from swell.errors import WrongBody
from swell.keys import SEGMENT
from swell.priority import Priority
from swell.topics import Pick, SubscriptionView
from swell.where import Where

#: Subscriptions of one answer.
MOST_LISTED = 10_000
IdempotencyKey = Annotated[str | None, Parameter(header="Idempotency-Key")]


class NewEvent(Struct, forbid_unknown_fields=True):
    """What subscribers are told: any JSON value. It expires `ttl` seconds after it was taken."""

    body: Any = None
    ttl: float | None = None
    priority: Priority = "normal"


class NewBroadcast(Struct, forbid_unknown_fields=True):
    """A message to all agents of a type; without one, to all agents that have such a handler."""

    name: str
    body: Any = None
    type: str = ""
    ttl: float | None = None
    priority: Priority = "normal"


class NewSubscription(Struct, forbid_unknown_fields=True):
    """An agent (`type/key`) wants to hear of a topic; see `swell.where` for `where`. `end` takes it back."""

    agent: str
    topic: str
    handler: str
    where: Where | None = None
    group: str = ""
    pick: Pick = "round_robin"
    end: bool = False


@post("/topics/{topic:str}", status_code=202, summary="Publish an event")
async def publish(client: Client, topic: str, data: NewEvent, key: IdempotencyKey = None) -> dict[str, bool]:
    """Publish an event; when this answers it is durable. With an `Idempotency-Key` a repetition publishes nothing."""
    await client.publish(topic, data.body, ttl=data.ttl, key=key or "", priority=data.priority)
    return {"published": True}


@post("/broadcast", status_code=202, summary="Send a message to all agents")
async def broadcast(client: Client, data: NewBroadcast, key: IdempotencyKey = None) -> dict[str, bool]:
    """Send a message to all agents of a type, or to all that have such a handler."""
    await client.broadcast(data.name, data.body, type=data.type, ttl=data.ttl, key=key or "", priority=data.priority)
    return {"sent": True}


@post("/subscriptions", status_code=200, summary="Subscribe an agent")
async def subscribe(client: Client, data: NewSubscription) -> dict[str, bool]:
    """Subscribe an agent at run time, or (`end`) take that back; `changed` is false if there was nothing to take."""
    type, slash, key = data.agent.partition("/")
    if not (slash and SEGMENT.match(type) and SEGMENT.match(key)):
        raise WrongBody("", f"agent: {data.agent!r} is not 'type/key'", field="agent")
    if data.end:
        return {"changed": await client.unsubscribe(data.agent, data.topic, data.handler, group=data.group)}
    await client.subscribe(data.agent, data.topic, data.handler, where=data.where, group=data.group, pick=data.pick)
    return {"changed": True}


@get("/subscriptions", summary="Subscriptions that were made at run time")
async def list_subscriptions(
    client: Client, agent: str = "", limit: Annotated[int, Parameter(ge=1, le=MOST_LISTED)] = 1000
) -> list[SubscriptionView]:
    """Subscriptions of one agent, or of all."""
    return await client.subscriptions(agent, limit)


#: All routes of this file, under /v1.
ROUTES: list[ControllerRouterHandler] = [publish, broadcast, subscribe, list_subscriptions]
