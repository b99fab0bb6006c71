"""Events, as a client publishes and subscribes to them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from msgspec import Raw, structs

from swell.bus.keyed import check_key
from swell.codec import check_event, decode, raw
from swell.errors import WrongBody
from swell.expiry import expiry
from swell.gather import Terms, stamped
from swell.keys import is_agent
from swell.looking import Looking
from swell.priority import Priority, inbox_of
from swell.registry import readable
from swell.topics import Event, Pick, Subscribe, Subscription, SubscriptionView, check_topic, checked
from swell.where import Where
from swell.wire import EVENT, SUBSCRIBE, TO_SHARD, AgentRecord

#: How long the owner of an agent's shard may take to record a subscription, seconds.
SUBSCRIBE_TIMEOUT_S = 30.0


class Publishing(Looking):
    """What a client publishes, and whom it subscribes."""

    async def publish(
        self,
        topic: str,
        body: Any = None,
        *,
        sender: str = "",
        wait: float | None = None,
        key: str = "",
        ttl: float | None = None,
        deadline: datetime | None = None,
        priority: Priority = "normal",
    ) -> None:
        """Publish an event; returns when it is durable in every shard. Each subscriber is then sent it as a message.

        Events of one sender with one priority reach each subscriber in the order of the calls. A message to each
        subscriber is a message like any other: retried, dead-lettered, conserved; also while the agent's worker is away
        or the agent moves.
        Without a subscriber nothing happens.

        Args:
            topic: 1 to 16 segments joined by dots, of letters, digits, `_`, `-`, `:` and `@`.
            body: anything msgspec can encode; at most 4 KiB less than 1 MiB encoded.
            sender: the agent that publishes, if one does. With the largest body, its name may have 2 KiB.
            wait: the most to wait for room, or for the server, seconds; see `send`. Of an event that was refused, some
                shards may have it and others not; repeat it under a `key`.
            key: names the event: repeated under it within a day, it is published once.
            ttl: an event is worth handling for so long, seconds.
            deadline: the same as a moment; give one of the two.
            priority: of the event, and of the messages that it becomes; see `send`.

        Raises:
            WrongBody: the topic, the key or the limit cannot be one; the text says what to change.
            WireError, Busy, NotAppended, BrokerUnavailable: as for `send`.
        """
        terms = Terms(sender, expiry(ttl, deadline))
        event = Event(check_topic(topic), _body(body, sender))
        await self.deliver(self._to_all(event, terms, priority), wait, check_key(key) if key else None)

    async def publish_many(
        self, events: Iterable[tuple[str, Any]], *, sender: str = "", priority: Priority = "normal"
    ) -> int:
        """Publish (topic, body) pairs, in order, with one acknowledgement for all; returns how many.

        Raises:
            WrongBody, WireError, BrokerRefused: as for `publish`; the events before it are published.
        """
        terms = Terms(sender)
        count = 0

        def messages() -> Iterator[tuple[str, tuple[Any, ...]]]:
            nonlocal count
            for topic, body in events:
                yield from self._to_all(Event(check_topic(topic), _body(body, sender)), terms, priority)
                count += 1

        await self.deliver(messages(), None)
        return count

    async def broadcast(
        self,
        name: str,
        body: Any = None,
        *,
        type: str = "",
        sender: str = "",
        wait: float | None = None,
        key: str = "",
        ttl: float | None = None,
        deadline: datetime | None = None,
        priority: Priority = "normal",
    ) -> None:
        """Send a message to all agents of a type, or of all types that have such a handler; see `publish`.

        Args:
            name: the handler.
            body: for all of them.
            type: of the agents; "" for all types.
            sender: the agent that sends, if one does.
            wait: as for `publish`.
            key: as for `publish`.
            ttl: as for `publish`.
            deadline: as for `publish`.
            priority: as for `publish`.

        Raises:
            WrongBody, WireError, Busy, NotAppended, BrokerUnavailable: as for `publish`.
        """
        if not name or name.startswith("$"):
            raise WrongBody("", f"name: {name!r} is not the name of a handler", field="name")
        event, terms = Event(type, _body(body, sender), name), Terms(sender, expiry(ttl, deadline))
        await self.deliver(self._to_all(event, terms, priority), wait, check_key(key) if key else None)

    def _to_all(self, event: Event, terms: Terms, priority: Priority) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """The event for each shard."""
        fields = stamped(TO_SHARD, EVENT, raw(event), time.time_ns() // 1000, terms)
        for shard in self.shard_names:
            yield inbox_of(shard, priority), fields

    async def subscribe(
        self,
        agent: str,
        topic: str,
        name: str,
        *,
        where: Where | None = None,
        group: str = "",
        pick: Pick = "round_robin",
        timeout: float = SUBSCRIBE_TIMEOUT_S,
    ) -> None:
        """Have events call an agent's handler from now on, as long as the agent lives; again, it changes nothing.

        It is stored with the agent's record. What is published after this returns is heard.

        Args:
            agent: `type/key`.
            topic: a pattern: `*` stands for one segment, `**` for any number of them.
            name: the handler.
            where: only events whose body it holds for; looked at before the agent is woken.
            group: each event goes to one of all that subscribe under this name, instead of to every one.
            pick: to which one: in turn, at random, or the one with the fewest messages waiting (as of up to a fifth of
                a second ago).
            timeout: limit for the answer, seconds.

        Raises:
            WrongBody: the subscription cannot be one, or the agent has 1,000 already.
            UnknownAgent, UnknownHandler: there is no such agent, or it has no such handler.
            CallTimeout: nobody owns the agent's shard now; the request is durable.
        """
        wanted = Subscribe(agent, checked(Subscription(topic, name, where, group, pick)))
        await self.request(self.shard(agent), TO_SHARD, SUBSCRIBE, wanted, timeout)

    async def unsubscribe(
        self, agent: str, topic: str, name: str, *, group: str = "", timeout: float = SUBSCRIBE_TIMEOUT_S
    ) -> bool:
        """Take a subscription that was made at run time back; returns whether there was one.

        Raises:
            UnknownAgent, CallTimeout: as for `subscribe`.
        """
        wanted = Subscribe(agent, checked(Subscription(topic, name, None, group)), end=True)
        return decode(await self.request(self.shard(agent), TO_SHARD, SUBSCRIBE, wanted, timeout), bool)

    async def subscriptions(self, agent: str = "", limit: int = 1_000) -> list[SubscriptionView]:
        """Subscriptions that were made at run time, of one agent or of all; those that classes declare are in the code.

        Args:
            agent: only this agent's.
            limit: at most so many.
        """
        found: list[SubscriptionView] = []
        for shard in [self.shard(agent)] if agent else self.shard_names:
            records = await self.broker.records(shard)
            wanted = {id: record for id, record in records.items() if is_agent(id) and agent in ("", id)}
            for id, record in readable(wanted, AgentRecord):
                found += [SubscriptionView(id, *structs.astuple(one)) for one in record.subscriptions]
        return sorted(found, key=lambda one: (one.agent, one.topic, one.handler))[:limit]


def _body(body: Any, sender: str) -> Raw:
    """What is published, encoded.

    Raises:
        WireError: it cannot be encoded, or would not fit into the messages that it becomes.
    """
    encoded = raw(body)
    check_event(encoded, sender)
    return encoded
