"""Dead letters as people look at them: list, show, replay, drop. Reached as `client.letters`.

    for letter in await client.letters.list(Filter(type="reviewer", kind="handler_failed"), limit=100): ...
    await client.letters.replay("3:1700000000000-0:17")
    await client.letters.drop(where=Filter(until_ms=moment("until", "7d")))

Letters are read in pages, of which views without bodies are kept: memory stays bounded whatever the letters hold.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from swell.bus.broker import Broker, ReplayStatus
from swell.codec import decode
from swell.errors import ConfigError, WireError
from swell.keys import CONTROL, METRICS
from swell.letter_view import Filter, LetterDetail, LetterView, detail, moment, view
from swell.letters import MALFORMED, KeptLetter, revived
from swell.priority import PRIORITIES, Priority, inbox_of, rank, room, split

if TYPE_CHECKING:
    from swell.client import Client

#: Letters read, replayed or dropped in one call; each may have a body of 1 MiB.
PAGE = 32

_CURSOR = re.compile(r"(\w+):(\d{1,19})-(\d{1,19})\Z", re.ASCII)


class Ended(Struct):
    """What became of the letters that were to be replayed or dropped.

    Attributes:
        done: how many were.
        gone: ids of letters that do not exist, or no longer: somebody replayed or dropped them.
        busy: ids of letters that stay because their shard is full; try again later.
        refused: ids of letters that cannot be replayed, and why.
    """

    done: int = 0
    gone: list[str] = []
    busy: list[str] = []
    refused: dict[str, str] = {}


class Found(NamedTuple):
    """A letter and where it is."""

    shard: str
    place: str
    id: str


class Letters:
    """The dead letters of a namespace.

    Args:
        client: whose namespace.
        max_depth: unsettled messages that a shard may hold.
    """

    def __init__(self, client: Client, max_depth: int) -> None:
        self._client = client
        self._max_depth = max_depth

    @property
    def _broker(self) -> Broker:
        return self._client.broker

    async def list(self, where: Filter = Filter(), limit: int = 100, after: str = "") -> list[LetterView]:  # noqa: B008
        """Letters of all shards, the newest first.

        Args:
            where: which ones.
            limit: at most so many.
            after: the `place` of the last letter of the page before.

        Raises:
            ConfigError: `after` is no place.
        """
        found: list[LetterView] = []
        scans = self._scans(where, after)
        heads: list[tuple[int, int, int, LetterView]] = []
        turn: Iterable[int] = range(len(scans))
        while len(found) < limit:
            for at in turn:
                letter = await scans[at].next()
                if letter is not None:
                    ms, number = _order(_place(letter))
                    heapq.heappush(heads, (-ms, -number, at, letter))
            if not heads:
                break
            *_, at, letter = heapq.heappop(heads)
            found.append(letter)
            turn = (at,)
        return found

    async def get(self, id: str) -> LetterDetail | None:
        """One letter, whole; None if there is none of that id."""
        found, _ = await self.select(id)
        for one in found:
            for place, encoded in await self._broker.dead_at(one.shard, [one.place]):
                return detail(one.shard, place, encoded)
        return None

    async def select(self, *ids: str, where: Filter | None = None) -> tuple[Sequence[Found], Sequence[str]]:
        """Find letters by id, or all that fit a filter; oldest first in each shard.

        Returns:
            the letters, and those of `ids` that were not found.
        """
        if where is not None:
            shards = self._shards(where)
            scans = [_Scan(self._broker, shard, where) for shard in shards]
            meant = [Found(scan.shard, _place(one), one.id) for scan in scans async for one in scan.rest()]
            return meant[::-1], []
        wanted: dict[str, set[str]] = {}
        for id in ids:
            wanted.setdefault(split(id.partition(":")[0])[0], set()).add(id)
        found = []
        for shard in self._shards(Filter()):
            missing = wanted.get(shard, set())
            scan = _Scan(self._broker, shard, Filter())
            while missing and (letter := await scan.next()) is not None:
                if letter.id in missing:
                    missing.discard(letter.id)
                    found.append(Found(shard, _place(letter), letter.id))
        there = {one.id for one in found}
        return found[::-1], [id for id in dict.fromkeys(ids) if id not in there]

    async def replay(self, *ids: str, where: Filter | None = None) -> Ended:
        """Send the messages of letters again, each once, in the order in which they died.

        The letter and its message are never both there, nor neither: what is replayed is no dead letter any more. The
        message goes to the same agent, with the same sender and body; nobody waits for its result.

        Args:
            ids: which letters; or
            where: all that fit a filter.

        Raises:
            BrokerUnavailable: the server did not answer; what is still a letter was not replayed.
        """
        found, gone = await self.select(*ids, where=where)
        ended = await self.replay_found(found)
        ended.gone = [*gone, *ended.gone]
        return ended

    async def replay_found(self, found: Iterable[Found]) -> Ended:
        """Replay what `select` found. See `replay`."""
        ended = Ended()
        full: set[str] = set()
        for shard, chunk in _chunks(found):
            if shard in full:
                ended.busy += [one.id for one in chunk]
                continue
            there = dict(await self._broker.dead_at(shard, [one.place for one in chunk]))
            # Each goes back to the inbox that it died in.
            ready: dict[str, list[tuple[Found, bytes]]] = {}
            for one in chunk:
                if one.place not in there:
                    ended.gone.append(one.id)
                    continue
                try:
                    payload, priority = _revived(there[one.place])
                except WireError as error:
                    ended.refused[one.id] = str(error)
                else:
                    ready.setdefault(inbox_of(shard, priority), []).append((one, payload))
            for inbox, letters in ready.items():
                for one, answer in await self._replay(inbox, letters):
                    if answer == "ok":
                        ended.done += 1
                    elif answer == "gone":
                        ended.gone.append(one.id)
                    else:
                        ended.busy.append(one.id)
                        full.add(shard)
        return ended

    async def _replay(self, inbox: str, letters: Sequence[tuple[Found, bytes]]) -> Iterable[tuple[Found, ReplayStatus]]:
        found = [(one.place, payload) for one, payload in letters]
        answers = await self._broker.replay(inbox, found, room(inbox, self._max_depth))
        return zip((one for one, _ in letters), answers, strict=True)

    async def drop(self, *ids: str, where: Filter | None = None) -> Ended:
        """Delete letters for good; the ledger keeps count of it.

        Args:
            ids: which letters; or
            where: all that fit a filter.
        """
        found, gone = await self.select(*ids, where=where)
        ended = await self.drop_found(found)
        ended.gone = [*gone, *ended.gone]
        return ended

    async def drop_found(self, found: Iterable[Found]) -> Ended:
        """Drop what `select` found. See `drop`."""
        ended = Ended()
        for shard, chunk in _chunks(found):
            answers = await self._broker.drop(shard, [one.place for one in chunk])
            ended.done += sum(answers)
            ended.gone += [one.id for one, dropped in zip(chunk, answers, strict=True) if not dropped]
        return ended

    def _shards(self, where: Filter) -> Sequence[str]:
        if "/" in where.agent:
            return [self._client.shard(where.agent)]
        return [*self._client.shard_names, CONTROL, METRICS]

    def _scans(self, where: Filter, after: str) -> Sequence[_Scan]:
        """A scan of each shard, the later shard first; behind the place `after`."""
        shards = self._shards(where)
        last_shard, before = _cursor(after)
        last_rank = shards.index(last_shard) if last_shard in shards else -1
        ms, number = _order(before) if before else (0, 0)
        # Of letters of one instant the later shard's comes first: those of earlier shards are still behind the cursor.
        bounds = [f"{ms}-{number + 1}" if rank < last_rank else before for rank in range(len(shards))]
        return [_Scan(self._broker, shard, where, bounds[rank]) for rank, shard in reversed([*enumerate(shards)])]


class _Scan:
    """A shard's letters that fit a filter, the newest first, read page by page.

    Attributes:
        before: only letters written before this stream id are still to be read; "" for no limit.
    """

    def __init__(self, broker: Broker, shard: str, where: Filter, before: str = "") -> None:
        until = f"{where.until_ms + 1}-0" if where.until_ms > 0 else ""
        self.before = min(filter(None, (before, until)), key=_order, default="")
        self.shard = shard
        self._since = f"{where.since_ms}-0" if where.since_ms > 0 else ""
        self._broker = broker
        self._where = where
        self._page: list[LetterView] = []
        self._ended = False

    async def next(self) -> LetterView | None:
        """The next letter; None behind the last one."""
        while not self._page and not self._ended:
            page = await self._broker.dead(self.shard, PAGE, self.before, self._since)
            if page:
                self.before = page[-1][0]
            self._ended = len(page) < PAGE
            letters = (view(self.shard, place, encoded) for place, encoded in reversed(page))
            self._page = [letter for letter in letters if self._where.fits(letter)]
        return self._page.pop() if self._page else None

    async def rest(self) -> AsyncIterator[LetterView]:
        """All letters that are still to come."""
        while (letter := await self.next()) is not None:
            yield letter


def _revived(encoded: bytes) -> tuple[bytes, Priority]:
    """The batch that a letter becomes, and the priority that its message had.

    Raises:
        WireError: it cannot be replayed; the text says why.
    """
    try:
        letter = decode(encoded, KeptLetter)
    except WireError as error:
        raise WireError(f"this release cannot read the letter: {error}") from None
    if letter.kind == MALFORMED:
        raise WireError("its bytes were no batch of messages, so there is no message to replay; drop it")
    return revived(letter, time.time_ns() // 1000), PRIORITIES[rank(letter.id.partition(":")[0])]


def _place(letter: LetterView) -> str:
    return letter.place.partition(":")[2]


def _order(place: str) -> tuple[int, int]:
    """What stream ids are compared by."""
    ms, _, number = place.partition("-")
    return int(ms), int(number)


def _cursor(after: str) -> tuple[str, str]:
    """Shard and stream id of a `place`."""
    if not after:
        return "", ""
    if not _CURSOR.match(after):
        raise ConfigError("after", f"{after[:60]!r} is not the `place` of a dead letter, as 3:1700000000000-0")
    shard, _, place = after.partition(":")
    return shard, place


def _chunks(found: Iterable[Found]) -> Iterable[tuple[str, Sequence[Found]]]:
    """Letters in order, in groups of one shard and at most PAGE."""
    chunk: list[Found] = []
    for one in found:
        if chunk and (chunk[0].shard != one.shard or len(chunk) == PAGE):
            yield chunk[0].shard, chunk
            chunk = []
        chunk.append(one)
    if chunk:
        yield chunk[0].shard, chunk


__all__ = ["Ended", "Filter", "Found", "LetterDetail", "LetterView", "Letters", "moment"]
