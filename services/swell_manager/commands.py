"""One message of the shard `control` on its way to its end: acked when it is carried out, dead if it cannot be."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from msgspec import Raw, Struct

from swell.bus.entry import Entry
from swell.bus.settler import Settler
from swell.codec import decode, raw
from swell.errors import WireError
from swell.letters import letter
from swell.wire import DONE, FAILED, Death, Failure, Message

_T = TypeVar("_T")

#: How msgspec names the place of a wrong value: "... - at `$.keys[3]`".
_PATH = re.compile(r"at `\$\.?([^`]*)`$")


class Command:
    """A command and who waits for its answer.

    Args:
        entry: the entry it came in.
        index: its place there.
        message: itself.
        settler: takes the answer.
    """

    __slots__ = ("_settler", "entry", "index", "message")

    def __init__(self, entry: Entry, index: int, message: Message, settler: Settler) -> None:
        self.entry = entry
        self.index = index
        self.message = message
        self._settler = settler

    @property
    def waiter(self) -> tuple[str, int] | None:
        """Who waits for the answer: (process, call); None if nobody does."""
        return (self.message.reply_to, self.message.call) if self.message.reply_to else None

    def body(self, type: type[_T]) -> _T | None:
        """The decoded body; None if it is not of that type, and then the command has been refused."""
        try:
            return decode(self.message.body, type)
        except WireError as error:
            found = _PATH.search(str(error))
            self.refuse("wrong_body", str(error), field=found.group(1) if found else "")
            return None

    def ack(self) -> None:
        """It is carried out, or what is left of it is recorded."""
        self.entry.ack(self.index)

    def done(self, result: Struct) -> None:
        """It is carried out, and this is the result."""
        self.reply(DONE, raw(result))
        self.ack()

    async def recorded(self) -> None:
        """Return when what was recorded until now is written."""
        await self._settler.flush()

    def refuse(self, kind: str, reason: str, **detail: Any) -> None:
        """It cannot be carried out, ever: the asker is told, and a dead letter tells the operator."""
        self.reply(FAILED, raw(Failure(kind, reason, detail=detail)))
        self.entry.kill(self.index, letter(self.entry, self.index, self.message, Death(kind, reason)))

    def reply(self, status: int, body: Raw) -> None:
        """Tell who waits, if anybody does."""
        if self.message.reply_to:
            self._settler.replies.add(self.message.reply_to, self.message.call, status, body)
