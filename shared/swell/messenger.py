"""Messages of one process: sent, sent together, and asked.

Which shard a message goes to is decided here; `swell.bus.producer` gathers and appends, `swell.bus.caller` holds
what is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import msgspec

from swell.asking import first_true
from swell.bus.broker import Broker
from swell.bus.caller import Caller
from swell.bus.keyed import KeyedSend, SentOnce, check_key
from swell.bus.producer import Producer
from swell.codec import UNDECODABLE, raw
from swell.errors import Busy, CallTimeout, WireError
from swell.expiry import Expiry, expiry
from swell.gather import PLAIN, Terms, gather, stamped
from swell.instruments import Recorder
from swell.keys import shard_of
from swell.later import Cancel, check_name, for_later
from swell.priority import Priority, inbox_of, inboxes
from swell.wire import CANCEL, ID_HEADER, LATER, TO_SHARD

_T = TypeVar("_T")

#: Agents whose shard is remembered; 5 MB at most. Where the next agent lives takes half a microsecond to work out.
KNOWN_PLACES = 32_768
#: `send_many` with a limit, or a key, reads the clock once for so many messages; the first is as old as it says, the
#: others are younger.
STAMP_EVERY = 32


class Messenger:
    """What sends messages, and waits for their answers: the part of a `Client` that the rest of it is built on.

    Attributes:
        process: our name, unique for each start.
        producer: appends everything that this process sends.
        caller: holds the calls of this process that wait for replies.
        shards: number of the namespace's shards.
    """

    def __init__(self, broker: Broker, process: str, max_depth: int, recorder: Recorder) -> None:
        self.broker = broker
        self.process = process
        self.shards = 0
        self._max_depth = max_depth
        self.recorder = recorder
        self.producer = Producer(broker, process, max_depth, recorder)
        self.caller = Caller(broker, process)
        self._places: dict[str, str] = {}

    @property
    def max_depth(self) -> int:
        """Unsettled messages that a shard may hold."""
        return self._max_depth

    def shard(self, agent: str) -> str:
        """The name of the shard that an agent lives in."""
        place = self._places.get(agent)
        if place is None:
            if len(self._places) >= KNOWN_PLACES:
                self._places.clear()
            place = self._places[agent] = str(shard_of(agent, self.shards))
        return place

    def inbox(self, agent: str, priority: Priority = "normal") -> str:
        """The name of the inbox that messages of this priority to an agent lie in.

        Raises:
            WrongBody: there is no such priority.
        """
        return inbox_of(self.shard(agent), priority)

    async def send(
        self,
        to: str,
        name: str,
        body: Any = None,
        *,
        sender: str = "",
        wait: float | None = None,
        key: str = "",
        ttl: float | None = None,
        deadline: datetime | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        id: str = "",
        priority: Priority = "normal",
    ) -> None:
        """Send one message; returns when it is durable (see the settings of the server for what that means).

        Messages of one sender to one agent with one priority are handled in the order of the calls.

        Args:
            to: `type/key`.
            name: the handler.
            body: anything msgspec can encode; at most 1 MiB encoded.
            sender: the agent that sends, if one does.
            wait: the most to wait for room if the shard is full, or the server is away, seconds; None for as long as it
                takes.
            key: names the message; see `send_once`.
            ttl: the message is worth handling for so long, seconds; then it is settled as expired instead.
            deadline: the same as a moment; give one of the two.
            delay: send it so much later, seconds, counted from when the server has it; `ttl` counts from then.
            at: the same as a moment, by the server's clock; give one of the two.
            id: names the message so that `cancel_message` can end it. A message for later takes the place of one that
                still waits for the same agent under the same id.
            priority: `critical`, `high`, `normal` or `low`: more urgent messages are read and handled before others.

        Raises:
            WrongBody: one of these cannot be; the text says what to change.
            WireError: the body cannot be encoded or is too large.
            BrokerRefused: the server does not take it.
            Busy: there was no room within `wait`; the message was not appended and will not be.
            NotAppended: the server was away for longer than `wait`; the message was not appended and will not be.
            BrokerUnavailable: it did not answer within `wait`; the message may have been appended, or may be yet.
        """
        if delay is not None or at is not None:
            terms = _terms(sender, expiry(ttl, deadline), id)
            later = for_later((to, name, raw(body)), (delay, at), terms, priority)
            message: tuple[Any, ...] = (TO_SHARD, LATER, later, time.time_ns() // 1000)
            await self.deliver([(self.inbox(to, priority), message)], wait, check_key(key) if key else None)
            return
        plain = ttl is None and deadline is None and not sender and not id
        terms = PLAIN if plain else _terms(sender, expiry(ttl, deadline), id)
        message = stamped(to, name, body, time.time_ns() // 1000, terms)
        inbox = self.shard(to) if priority == "normal" else self.inbox(to, priority)
        if key:
            await self.deliver([(inbox, message)], wait, check_key(key))
            return
        await self.producer.send(inbox, message, wait)

    async def append(self, shard: str, message: tuple[Any, ...]) -> None:
        """Append one message, the fields of `wire.Message`, to a shard by name: for the system's own messages."""
        await self.producer.send(shard, message)

    async def send_many(
        self,
        messages: Iterable[tuple[str, str, Any]],
        *,
        sender: str = "",
        wait: float | None = None,
        key: str = "",
        ttl: float | None = None,
        deadline: datetime | None = None,
        priority: Priority = "normal",
    ) -> int:
        """Send (to, name, body) triples, in order, with one acknowledgement for all.

        Args:
            messages: whom to, the handler, the body.
            sender: the agent that sends, if one does.
            wait: as for `send`. Shards fill up independently, so some messages may be appended and others not; of those
                to one agent the last ones are missing.
            key: names the messages; see `send_once`.
            ttl: for each message, from the moment when it is given; as for `send`.
            deadline: as for `send`.
            priority: of all of them; as for `send`.

        Returns:
            how many were sent; all of them are durable.

        Raises:
            WrongBody: as for `send`; nothing is sent.
            WireError: a body cannot be encoded or is too large; those before it are sent.
            Busy: there was no room for some within `wait`. Of the others, all `sent` are durable; `unsent` lists the
                places (from 0) of those that were not appended and will not be. Sending them later keeps the order.
            NotAppended: as for `send`; the text says how many are durable. None of the others will be appended.
            BrokerUnavailable: as for `send`; the text says how many are durable, and how many may be.
        """
        if key:
            limits: dict[str, Any] = {"wait": wait, "ttl": ttl, "deadline": deadline}
            return (await self.send_once(messages, key, sender=sender, priority=priority, **limits)).sent
        terms = Terms(sender, expiry(ttl, deadline))
        if wait is not None:
            return (await self.deliver(self._stamped(messages, terms, priority), wait)).sent
        return await self.producer.send_many(gather(messages, self._inboxes(priority), *terms[:2]))

    async def send_once(
        self,
        messages: Iterable[tuple[str, str, Any]],
        key: str,
        *,
        sender: str = "",
        wait: float | None = None,
        ttl: float | None = None,
        deadline: datetime | None = None,
        priority: Priority = "normal",
    ) -> SentOnce:
        """Send (to, name, body) triples under a key: whoever repeats the call within a day sends none of them twice.

        That is so also in another process, and if the first call was cut after some of the messages. The same key must
        be given the same messages in the same order: others are taken for those that were sent. There is no order
        between these messages and what the sender sends without a key, unless it waits for one before the other.

        Args:
            messages: whom to, the handler, the body; held in memory until they are durable.
            key: 1 to 128 letters, digits, `.`, `_` or `-`; unique in the namespace.
            sender: the agent that sends, if one does.
            wait: as for `send`.
            ttl: as for `send_many`.
            deadline: as for `send`.
            priority: as for `send_many`.

        Returns:
            how many there are, all of them durable, and whether all had been before.

        Raises:
            WrongBody: the key is malformed, or as for `send`.
            WireError: a body cannot be encoded or is too large; nothing is sent.
            Busy: there was no room for some within `wait`. Repeat the whole call with the same key.
            BrokerUnavailable: the server did not answer within `wait`. Repeat the whole call with the same key.
        """
        terms = Terms(sender, expiry(ttl, deadline))
        return await self.deliver(self._stamped(messages, terms, priority), wait, check_key(key))

    async def deliver(
        self, messages: Iterable[tuple[str, tuple[Any, ...]]], wait: float | None, key: str | None = None
    ) -> SentOnce:
        """Send (inbox, fields of `wire.Message`) pairs, each by itself: what `send_many` and `send_once` end in.

        Raises:
            WrongBody, WireError, Busy, NotAppended, BrokerUnavailable: as for those.
        """
        if key is None:
            if wait is None:
                return SentOnce(await self.producer.send_many(messages), False)
            return SentOnce(await self.producer.send_limited(messages, wait), False)
        try:
            return await KeyedSend(self.broker, key, self._max_depth, wait).send(messages)
        except Busy:
            self.recorder.count("busy_refusals")
            raise

    def _inboxes(self, priority: Priority) -> Callable[[str], str]:
        """What tells the inbox of an agent.

        Raises:
            WrongBody: there is no such priority.
        """
        inbox_of("", priority)
        return self.shard if priority == "normal" else partial(self.inbox, priority=priority)

    def _stamped(
        self, messages: Iterable[tuple[str, str, Any]], terms: Terms, priority: Priority
    ) -> Iterator[tuple[str, tuple[Any, ...]]]:
        inbox = self._inboxes(priority)
        now_us = 0
        for count, (to, name, body) in enumerate(messages):
            if not count % STAMP_EVERY:
                now_us = time.time_ns() // 1000
            yield inbox(to), stamped(to, name, body, now_us, terms)

    async def ask(
        self,
        to: str,
        name: str,
        body: Any = None,
        type: type[_T] | Any = Any,
        *,
        timeout: float = 30.0,
        sender: str = "",
        wait: float | None = None,
        ttl: float | None = None,
        deadline: datetime | None = None,
        id: str = "",
        priority: Priority = "normal",
    ) -> _T:
        """Send a message and wait for the handler's result.

        Cancelled while it waits, it cancels the message: that is not handled any more, or its handler is cancelled.

        Args:
            to: `type/key`.
            name: the handler.
            body: anything msgspec can encode.
            type: what the result is decoded as.
            timeout: limit, seconds.
            sender: the agent that asks, if one does.
            wait: the most to wait for room, seconds, as for `send`; part of `timeout`.
            ttl: as for `send`; it may be shorter than `timeout`, or longer.
            deadline: as for `send`.
            id: as for `send`; whoever waits for the answer is told `Cancelled` then.
            priority: as for `send`.

        Raises:
            Busy, NotAppended, BrokerUnavailable: as for `send`.
            Cancelled: somebody cancelled the message by its `id`.
            Expired: the handler had not begun at the deadline, and never will.
            CallTimeout: no answer in time; the message is durable and may still be handled.
            UnknownAgent, UnknownHandler, WrongBody, HandlerFailed: what the agent's worker answered.
            WireError: the body cannot be encoded, or the result is not of that type.
        """
        plain = ttl is None and deadline is None and not sender and not id
        terms = PLAIN if plain else _terms(sender, expiry(ttl, deadline), id)
        inbox = self.shard(to) if priority == "normal" else self.inbox(to, priority)
        answer = await self.request(inbox, to, name, body, timeout, terms, wait, take_back=True)
        try:
            result: _T = msgspec.msgpack.decode(answer, type=type)
        except UNDECODABLE as error:
            raise WireError(f"the result of {to} {name!r} is not what was asked for: {error}") from None
        return result

    async def request(
        self,
        shard: str,
        to: str,
        name: str,
        body: Any,
        timeout: float,
        terms: Terms = PLAIN,
        wait: float | None = None,
        *,
        take_back: bool = False,
    ) -> msgspec.Raw:
        """Send to an inbox and wait for the raw result: what `ask` and the commands are made of.

        With `take_back`, the message is cancelled if we are while we wait for its answer.

        Raises:
            CallTimeout: no answer within `timeout` seconds.
            CallError: the answer is a failure.
        """
        try:
            if not self.caller.is_open:
                await self.caller.opened(timeout)
            call = self.caller.begin()
            # A bare timer: asyncio.timeout() showed as an eighth of an ask in the profile.
            timer = asyncio.get_running_loop().call_later(timeout, call.expire)
            try:
                now_us = time.time_ns() // 1000
                message: tuple[Any, ...] = (to, name, body, now_us, terms.sender, self.process, call.number)
                if terms is not PLAIN and (terms.expiry is not None or terms.id):
                    headers = {ID_HEADER: terms.id} if terms.id else None
                    message = (*message, headers, terms.expiry.at_us(now_us) if terms.expiry is not None else 0)
                await self.producer.post(shard, message, call.future, timeout, wait)
                try:
                    return await call.future
                except asyncio.CancelledError:
                    if take_back and call.future.cancelled():
                        self._take_back(shard, Cancel(to, process=self.process, call=call.number))
                    raise
            finally:
                timer.cancel()
                self.caller.end(call)
        except TimeoutError:
            raise CallTimeout(to, name, timeout) from None

    def _take_back(self, shard: str, what: Cancel) -> None:
        """Have a call cancelled, without waiting for it; not if the way to its shard is full of what is before it."""
        lane = self.producer.lane(shard)
        if not lane.room and lane.add((TO_SHARD, CANCEL, what, time.time_ns() // 1000)) is not None:
            self.producer.wake()

    async def cancel_message(self, to: str, id: str, *, timeout: float = 30.0) -> bool:
        """End a message that was sent with this `id`, if its handler has not returned; returns whether there was one.

        That there was one is told as soon as it is found, whatever else lies unread in the shard; that there was none,
        when all was read that was sent before.

        It is not handled any more if its handler has not begun, or it waits for its time. A handler that runs is
        cancelled, as at its time limit; if it returns all the same, its message is acked. The ledger counts a cancelled
        message as expired, and there is no dead letter.

        Raises:
            CallTimeout: nobody owns the agent's shard now, or too much lies unread there; the request is durable.
        """
        what = Cancel(to, check_name("id", id))
        return await first_true(self.request(one, TO_SHARD, CANCEL, what, timeout) for one in inboxes(self.shard(to)))


def _terms(sender: str, until: Expiry | None, id: str) -> Terms:
    """What is said of a message.

    Raises:
        WrongBody: the id cannot be one.
    """
    return Terms(sender, until, check_name("id", id) if id else "")
