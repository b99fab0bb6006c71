"""The manager's HTTP for locks, semaphores, leaders and barriers. Who asks gives a name, and renews by asking again."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, delete, get, post
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from swell.bus.facts import Seat
from swell.client import Client
from swell.errors import WrongBody
from swell.facts import LockView
from swell.facts.board import TTL_S
from swell.facts.values import MOST_LISTED, SeatKind, check_key
from swell_manager.shared_facts import rest_of_path

#: Declared for the description; see `rest_of_path`.
Name = Annotated[str, Parameter(description="1 to 512 bytes of printable text; slashes are part of it.")]
Wait = Annotated[float, Parameter(ge=0, le=60, description="How long to wait for one's turn, seconds.")]
Owner = Annotated[str, Parameter(description="As it was given when the seat was taken.")]


class NewSeat(Struct, forbid_unknown_fields=True):
    """Who wants a seat, for how many seconds unless it asks again; `seats` of a semaphore; `token`: renew this one."""

    owner: str
    ttl: float = TTL_S
    seats: int | None = None
    token: int | None = None


class SeatView(Struct):
    """A seat that is held: its fencing token, and for how long unless it is asked for again."""

    kind: str
    name: str
    owner: str
    token: int
    expires_s: float


class Released(Struct):
    """Whether a seat was given back."""

    kind: str
    name: str
    owner: str
    released: bool


class NewParty(Struct, forbid_unknown_fields=True):
    """Who comes, how many are to come, and for how many seconds it counts unless it comes again."""

    party: str
    parties: int
    ttl: float = TTL_S


class PartyView(Struct):
    """Whether a party has passed, with which generation; else how many are there."""

    name: str
    party: str
    passed: bool
    present: int
    parties: int
    generation: int | None


@get("/locks", summary="Who holds which lock")
async def list_locks(
    client: Client,
    limit: Annotated[int, Parameter(ge=1, le=MOST_LISTED)] = 100,
    after: Annotated[str, Parameter(description="`kind/name` of the last one of the page before.")] = "",
) -> list[LockView]:
    """Locks, semaphores and leaders that are held or waited for, with their holders' tokens and times."""
    return await client.facts.locks(limit, after)


@post("/locks/{kind:str}/{name:path}", status_code=200, summary="Take or renew a lock, a seat or a term")
async def take_seat(
    client: Client, request: Request[Any, Any, Any], kind: SeatKind, name: Name, data: NewSeat, wait: Wait = 0.0
) -> SeatView:
    """Take a lock for an owner, or keep it for `ttl` seconds more if it holds it: the token is the same then.

    423 names those who hold it after `wait` seconds; then it is not in the line any more. With `token` only the seat of
    that token is kept: 409 (`urn:swell:lock-lost`) if it was lost, whoever holds it now.
    """
    held = rest_of_path(request, f"/v1/locks/{kind}/")
    claims = client.facts.claims
    seat: Seat
    if data.token is not None:
        seat = await claims.renew(kind, held, data.owner, data.token, ttl=data.ttl)
    else:
        seats = _seats(kind, data.seats)
        seat = await claims.take(kind, held, data.owner, ttl=data.ttl, seats=seats, wait=wait)
    return SeatView(kind, held, seat.owner, seat.token, data.ttl)


def _seats(kind: SeatKind, seats: int | None) -> int:
    if seats is None and kind == "semaphore":
        raise WrongBody("", "seats: say how many seats the semaphore has", field="seats")
    return 1 if seats is None else seats


@delete("/locks/{kind:str}/{name:path}", status_code=200, summary="Give a lock, a seat or a term back")
async def release_seat(
    client: Client, request: Request[Any, Any, Any], kind: SeatKind, name: Name, owner: Owner, token: int | None = None
) -> Released:
    """Give back what an owner holds, with `token` only under that one, and leave the line; again, it does nothing."""
    held = rest_of_path(request, f"/v1/locks/{kind}/")
    return Released(kind, held, owner, await client.facts.claims.release(kind, held, owner, token))


@post("/barriers/{name:path}", status_code=200, summary="Come to a barrier")
async def come_to_barrier(
    client: Client, request: Request[Any, Any, Any], name: Name, data: NewParty, wait: Wait = 0.0
) -> PartyView:
    """Come, and wait until all have come, `wait` seconds at most; again, to keep waiting, before `ttl` is over.

    A party passes once: its name is given the same generation again for an hour. For the next one take another name.
    """
    at = rest_of_path(request, "/v1/barriers/")
    barrier = client.facts.barrier(at, data.parties, data.ttl)
    found = await barrier.come(check_key(data.party, "party"), wait)
    passed = found.generation is not None
    return PartyView(at, data.party, passed, found.present, data.parties, found.generation)


#: All routes of this file, under /v1.
ROUTES: list[ControllerRouterHandler] = [list_locks, take_seat, release_seat, come_to_barrier]
