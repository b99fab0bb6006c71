"""The manager's HTTP for shared facts: get, put, swap, delete, list, watch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from litestar import Request, delete, get, put
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from litestar.response import ServerSentEvent, ServerSentEventMessage
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from swell.bus.facts import Seat
from swell.client import Client
from swell.facts import Watch
from swell.facts.values import MOST_LISTED, ChangeView, FactView, change_view, fact_view

#: Declared for the description; see `rest_of_path`.
Key = Annotated[
    str, Parameter(description="1 to 512 bytes of printable text, slashes too; those that begin with $ are read only.")
]
Limit = Annotated[int, Parameter(ge=1, le=MOST_LISTED)]


class NewFact(Struct, forbid_unknown_fields=True):
    """A value, any JSON; `ttl` in seconds, null for ever; `version`: only if the fact has it, 0: if there is none.

    `fence`: only while a lock is held under a token, as `lock/deploy:1790000000000000`.
    """

    value: Any
    ttl: float | None = None
    version: int | None = None
    fence: str | None = None


class Put(Struct):
    """The version that a fact was given."""

    key: str
    version: int


class Deleted(Struct):
    """The key that has no fact any more."""

    key: str


def rest_of_path(request: Request[Any, Any, Any], before: str) -> str:
    """What follows in the path as it came: the router makes one slash of two, and takes away the last."""
    path = unquote(request.scope["raw_path"].partition(b"?")[0], errors="surrogateescape")
    return path.removeprefix(before)


def _key(request: Request[Any, Any, Any]) -> str:
    return rest_of_path(request, "/v1/facts/")


@get("/facts", summary="Shared facts in the order of their keys")
async def list_facts(
    client: Client,
    prefix: Annotated[str, Parameter(description="Only keys that begin with this.")] = "",
    limit: Limit = 100,
    after: Annotated[str, Parameter(description="The last key of the page before.")] = "",
) -> list[FactView]:
    """A page of facts. One of large values is shorter than `limit`: the end is an empty page."""
    return [fact_view(stored) for stored in await client.facts.page(prefix, limit, after)]


@get("/facts/{key:path}", summary="One shared fact")
async def show_fact(client: Client, request: Request[Any, Any, Any], key: Key) -> FactView:
    """A fact with its version; `value_hex` has a value that JSON cannot show."""
    stored = await client.facts.stored(_key(request))
    if stored is None:
        raise NotFoundException(f"there is no fact {_key(request)!r}")
    return fact_view(stored)


@put("/facts/{key:path}", status_code=200, summary="Put a shared fact")
async def put_fact(client: Client, request: Request[Any, Any, Any], key: Key, data: NewFact) -> Put:
    """Put a value under a key, whatever was there; with `version` only if that is the fact's, else 409.

    With `fence` only while that lock is held under that token, else 409 (`urn:swell:stale-fence`).
    """
    at, facts = _key(request), client.facts
    fence = await _fence(client, at, data.fence)
    if data.version is None:
        return Put(at, await facts.put(at, data.value, ttl=data.ttl, fence=fence))
    return Put(at, await facts.swap(at, data.version, data.value, ttl=data.ttl, fence=fence))


async def _fence(client: Client, key: str, fence: str | None) -> Seat | None:
    return None if fence is None else await client.facts.claims.fence(key, fence)


@delete("/facts/{key:path}", status_code=200, summary="Delete a shared fact")
async def delete_fact(
    client: Client, request: Request[Any, Any, Any], key: Key, version: int | None = None, fence: str | None = None
) -> Deleted:
    """Delete a fact; with `version` only if that is its version, else 409; `fence` is as for PUT."""
    if not await client.facts.delete(_key(request), version, fence=await _fence(client, _key(request), fence)):
        raise NotFoundException(f"there is no fact {_key(request)!r}")
    return Deleted(_key(request))


@get("/watch", summary="Changes of shared facts as server-sent events")
async def watch_facts(
    client: Client,
    key: Annotated[str, Parameter(description="One fact; or")] = "",
    prefix: Annotated[str | None, Parameter(description="all whose keys begin with this, '' for all.")] = None,
) -> ServerSentEvent:
    """First an event `there` for each fact, then `put`, `deleted` and `expired` as they happen.

    `skipped` says that changes were missed: forget what is known; all that is there follows.
    """
    return ServerSentEvent(_events(client.facts.watch_encoded(key, prefix, lambda _, data: data)))


async def _events(watch: Watch[bytes]) -> AsyncIterator[ServerSentEventMessage]:
    async for change in watch:
        view: ChangeView = change_view(change)
        yield ServerSentEventMessage(data=msgspec.json.encode(view).decode(), event=view.kind)


#: All routes of this file, under /v1.
ROUTES: list[ControllerRouterHandler] = [list_facts, show_fact, put_fact, delete_fact, watch_facts]
