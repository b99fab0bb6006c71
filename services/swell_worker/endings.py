"""How messages end: acked, dead, or unhandled; and what whoever asked is told.

    handled, wanted by nobody, given up --> the entry's flag --> settled
        +-> asked for?  by a process: a reply, behind what is settled now
                        by a task: its outcome, kept until the task's home has it

Nothing is told before it is settled: an answer that somebody has cannot be taken back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from msgspec import Raw

from swell.bus.consumer import Consumer
from swell.bus.entry import Entry
from swell.client import Client
from swell.codec import decode, raw, raw_result
from swell.errors import SwellError, WireError
from swell.instruments import Recorder
from swell.wire import DONE, FAILED, GROUP_HEADER, TO_TASK, Failure, Message, Series
from swell_worker.executor import Failed, failure, letter
from swell_worker.life import Life

if TYPE_CHECKING:
    from swell_worker.events import Events
    from swell_worker.outcomes import Outcomes

log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Endings:
    """The part of the fleet that ends messages.

    Args:
        client: what agents send with.
        recorder: where everything is counted.
    """

    events: Events
    outcomes: Outcomes

    def __init__(self, client: Client, recorder: Recorder) -> None:
        self.client = client
        self.recorder = recorder
        self._consumer: Consumer | None = None

    def read(
        self, entry: Entry, index: int, message: Message, type: type[_T], check: Callable[[_T], object] | None = None
    ) -> _T | None:
        """The body of a request to us; if it cannot be read, or the check raises, it is a dead letter, and None."""
        try:
            body = decode(message.body, type)
            if check is not None:
                check(body)
        except SwellError as error:
            self.end_dead(None, entry, index, message, Failed("wrong_body", str(error)))
            return None
        return body

    def answer(self, cell: Life, entry: Entry, index: int, message: Message | Series, result: object) -> None:
        """A message, or the one of a series, was handled: ack it, and tell the asker if there is one."""
        if message.reply_to:
            try:
                body = raw_result(result)
            except WireError as error:
                reason = f"the result of {message.name!r} cannot be sent: {error}"
                cell.undo()
                whole = message.message(0) if isinstance(message, Series) else message
                self.end_dead(cell, entry, index, whole, Failed("handler_failed", reason, 1))
                return
            self._tell_asker(entry, message, body)
        entry.ack(index)

    def end_dead(self, cell: Life | None, entry: Entry, index: int, message: Message, failed: Failed) -> None:
        """A message is given up: dead letter, and the asker is told."""
        if message.reply_to:
            self._tell_asker(entry, message, failure(message, failed))
        if message.reply_to == TO_TASK and failed.kind == "unknown_agent":
            entry.expire(index)  # It goes to another agent.
            return
        type = cell.type.name if cell is not None else ""
        self.recorder.count("dead", type)
        if message.headers and GROUP_HEADER in message.headers and failed.kind in ("unknown_agent", "unknown_handler"):
            handler = message.name if failed.kind == "unknown_handler" else ""  # Its class may have others that stay.
            self.events.leave(message.to, [message.headers[GROUP_HEADER]], handler)
        log.warning(
            "dead letter: %s",
            failed.reason,
            extra={"kind": failed.kind, "agent": message.to, "shard": entry.shard.name, "entry": entry.id},
        )
        entry.kill(index, letter(entry, index, message, failed))

    def end_unhandled(self, cell: Life, entry: Entry, index: int, message: Message, why: Failed) -> None:
        """A message ends without having been handled, for nobody wants it any more; the asker is told."""
        self.recorder.count(why.kind, cell.type.name)
        log.debug("not handled: %s", why.reason, extra={"kind": why.kind, "agent": message.to})
        if message.reply_to:
            self._tell_asker(entry, message, failure(message, why))
        entry.expire(index)

    def _tell_asker(self, entry: Entry, message: Message | Series, outcome: Raw | Failure) -> None:
        """Tell whoever asked, behind what ends in this turn of the loop."""
        if message.reply_to == TO_TASK:
            self.outcomes.keep(entry, message, outcome)
        elif isinstance(outcome, Failure):
            self.tell(message.reply_to, message.call, FAILED, raw(outcome))
        else:
            self.tell(message.reply_to, message.call, DONE, outcome)

    def tell(self, process: str, call: int, status: int, body: Raw) -> None:
        """Answer a call of a process, behind what ends in this turn of the loop."""
        assert self._consumer is not None
        self._consumer.settler.replies.add(process, call, status, body)

    def reply(self, message: Message, result: object) -> None:
        """Tell who asked a shard, if somebody did, behind what ends in this turn of the loop."""
        if message.reply_to:
            self.tell(message.reply_to, message.call, DONE, raw(result))

    def refuse(self, message: Message, why: Failure) -> None:
        """Tell who asked a shard that there is no result, and will be none."""
        if message.reply_to:
            self.tell(message.reply_to, message.call, FAILED, raw(why))

    async def emit(self, message: Message | Series, part: object) -> None:
        """Send a part of an answer to those who wait for it; waits while too much of the worker's is not written yet.

        Raises:
            WireError: it cannot be encoded, or is larger than 1 MiB.
        """
        body = raw_result(part)
        if message.reply_to != TO_TASK:
            listeners = [(message.reply_to, message.call)]
        else:
            listeners = list(self.outcomes.listeners(message))
        assert self._consumer is not None
        await self._consumer.settler.replies.emit(listeners, body)
