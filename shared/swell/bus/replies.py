"""Replies of a process that are not written yet, in bounded memory.

    answer --add--------------------------> [reply] [reply] ... of each process --a call--> written
    part   --emit--> line, while too much       ^                                              |
                     is not written yet ---> there is room again <-----------------------------+

An answer is handed over at once: it goes with the end of its message, and so many messages were read. Of parts a
handler makes as many as it likes, so whoever makes them waits here while the server is away, or slower. Only parts are
counted as they come: for answers, of which there may be a hundred thousand a second, it would cost too much.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Raw

from swell.codec import encode
from swell.wire import PROGRESS, Reply

#: Bytes of the replies of one call, unless a single one has more; and so of one entry of a reply stream: what an asker
#: has to hold at once.
REPLIES_BYTES = 8 << 20
#: Bytes of parts that are not written yet from which on those who emit more wait.
MOST_UNWRITTEN_BYTES = 8 << 20
#: What a reply takes in memory besides its body, about: small parts count, too.
REPLY_BYTES = 200


class Part(Reply, array_like=True, gc=False):
    """A part of an answer, which was counted when it came; on the wire it is as any reply."""


class Replies:
    """All replies of one process that wait to be written.

    Args:
        dirty: set when there is something to write.
    """

    def __init__(self, dirty: asyncio.Event) -> None:
        self._dirty = dirty
        self._waiting: dict[str, list[Reply]] = {}
        #: Those of them that the next calls are for, and whether they are more than one takes.
        self._taken: dict[str, list[Reply]] = {}
        self._split = False
        #: Bytes of parts: of all, of those taken, of those in the call that is written now.
        self._bytes = self._left = self._flying = 0
        #: Parts that wait for room, the first one first; whoever is cancelled leaves the line with its part.
        self._line: dict[asyncio.Future[None], tuple[Sequence[tuple[str, int]], Raw]] = {}
        self._ended = False

    def add(self, process: str, call: int, status: int, body: Raw) -> None:
        """Answer a call, behind what is to be settled now."""
        self._waiting.setdefault(process, []).append(Reply(call, status, body))
        self._dirty.set()

    async def emit(self, listeners: Sequence[tuple[str, int]], body: Raw) -> None:
        """Send a part of an answer to calls, (process, number) each; returns when it is handed over.

        That is at once, unless too much is not written yet, or others wait for that. Cancelled, it is not sent.
        """
        if self._bytes < MOST_UNWRITTEN_BYTES and not self._line:
            self._hand_over(listeners, body)
        elif not self._ended:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._line[turn] = listeners, body
            try:
                await turn
            finally:
                self._line.pop(turn, None)

    def _hand_over(self, listeners: Sequence[tuple[str, int]], body: Raw) -> None:
        for process, call in listeners:
            self._waiting.setdefault(process, []).append(Part(call, PROGRESS, body))
            self._bytes += len(body) + REPLY_BYTES
        self._dirty.set()

    def take(self) -> None:
        """Let the next calls be for all that wait now; those before must have been written."""
        self._taken, self._waiting = self._waiting, {}
        self._left = self._bytes
        self._split = self._left > REPLIES_BYTES // 2

    def next_call(self) -> dict[str, bytes]:
        """The next of what was taken, encoded, an entry for each process; empty if nothing is left."""
        if not self._taken:
            return {}
        if not self._split:
            entries = {process: encode(replies) for process, replies in self._taken.items()}
            if sum(map(len, entries.values())) <= REPLIES_BYTES:
                self._taken = {}
                self._flying = self._left
                return entries
            self._split = True  # Only large answers come here: what is left is not encoded whole again.
        return self._next_part()

    def _next_part(self) -> dict[str, bytes]:
        entries: dict[str, bytes] = {}
        size = 0
        for process, replies in list(self._taken.items()):
            fits = 0
            for reply in replies:
                one = len(reply.body) + REPLY_BYTES
                if size and size + one > REPLIES_BYTES:
                    break
                size += one
                fits += 1
                if isinstance(reply, Part):
                    self._flying += one
            if fits:
                entries[process] = encode(replies[:fits])
            if fits < len(replies):
                del replies[:fits]
                break
            del self._taken[process]
        return entries

    def written(self) -> None:
        """The last call is written, or nobody is there to read it: let those in who wait for room."""
        self._bytes -= self._flying
        self._left -= self._flying
        self._flying = 0
        while self._line and self._bytes < MOST_UNWRITTEN_BYTES:
            turn = next(iter(self._line))
            part = self._line.pop(turn)
            # Handed over here: whoever is only woken can be cancelled, or overtaken, on the way.
            if not turn.done():
                self._hand_over(*part)
                turn.set_result(None)

    def end(self) -> None:
        """Nothing is written any more: whoever waits goes on, for it is to end as well, and must not hang at it."""
        self._ended = True
        for turn in self._line:
            if not turn.done():
                turn.set_result(None)
        self._line.clear()
