"""The manager's HTTP for dead letters: list, show, replay, drop."""

from __future__ import annotations

from typing import Annotated

from litestar import get, post
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from swell.client import Client
from swell.dead import Ended, Filter, LetterDetail, LetterView, moment
from swell.errors import Busy, WrongBody

#: Letters of one page, and ids of one request.
MOST_LETTERS = 10_000
#: The wait advised when all letters meant are of full shards, seconds.
RETRY_AFTER_S = 1.0

_TIME = "`30s`, `15m`, `1h` or `7d` ago, or a time in ISO 8601"


class Chosen(Struct, forbid_unknown_fields=True):
    """Which letters: `ids`, or those that fit every filter given, or `all` of them.

    `since` and `until` are times: `30s`, `15m`, `1h` or `7d` ago, or in ISO 8601.
    """

    ids: list[str] = []
    type: str = ""
    agent: str = ""
    kind: str = ""
    reason: str = ""
    since: str = ""
    until: str = ""
    all: bool = False

    def filter(self) -> Filter | None:
        """The filter; None if ids are given.

        Raises:
            WrongBody: not exactly one of ids, filters and `all` is given.
            ConfigError: a time is none.
        """
        since_ms, until_ms = moment("since", self.since), moment("until", self.until)
        meant = Filter(self.type, self.agent, self.kind, self.reason, since_ms, until_ms)
        if bool(self.ids) + (meant != Filter()) + self.all != 1:
            raise WrongBody("", "give either ids, or filters, or all", field="ids")
        if len(self.ids) > MOST_LETTERS:
            raise WrongBody("", f"{len(self.ids)} ids are more than {MOST_LETTERS}: give them in parts", field="ids")
        return None if self.ids else meant


@get("/dead", summary="Dead letters, the newest first")
async def list_letters(
    client: Client,
    type: str = "",
    agent: str = "",
    kind: str = "",
    reason: str = "",
    since: Annotated[str, Parameter(description=f"Not older: {_TIME}.")] = "",
    until: Annotated[str, Parameter(description=f"Not newer: {_TIME}.")] = "",
    limit: Annotated[int, Parameter(ge=1, le=MOST_LETTERS)] = 100,
    after: Annotated[str, Parameter(description="The `place` of the last letter of the page before.")] = "",
) -> list[LetterView]:
    """A page of the letters that fit every filter given; the next one begins behind the last letter's `place`."""
    where = Filter(type, agent, kind, reason, moment("since", since), moment("until", until))
    return await client.letters.list(where, limit, after)


@get("/dead/{id:str}", summary="One dead letter")
async def show_letter(client: Client, id: str) -> LetterDetail:
    """One letter with its body, traceback and history; `body_hex` has the body if JSON cannot show it."""
    found = await client.letters.get(id)
    if found is None:
        raise NotFoundException(f"there is no dead letter {id!r}")
    return found


@post("/dead/replay", status_code=200, summary="Send the messages of dead letters again")
async def replay_letters(client: Client, data: Chosen) -> Ended:
    """Make letters messages again, each once; `gone`, `busy` and `refused` name those that were not replayed."""
    where = data.filter()
    ended = await client.letters.replay(*data.ids, where=where)
    if ended.busy and not ended.done:
        shard = ended.busy[0].partition(":")[0]
        depth = (await client.broker.ledger(shard)).depth
        raise Busy(shard, depth, RETRY_AFTER_S)
    return ended


@post("/dead/drop", status_code=200, summary="Delete dead letters")
async def drop_letters(client: Client, data: Chosen) -> Ended:
    """Delete letters for good; `gone` names those that were not there."""
    return await client.letters.drop(*data.ids, where=data.filter())


#: All routes of this file, under /v1.
ROUTES: list[ControllerRouterHandler] = [list_letters, show_letter, replay_letters, drop_letters]
