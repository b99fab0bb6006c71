"""Who of one shard wants an event: what classes declare, and what agents subscribed to at run time.

A class's subscription stands once in the index, however many agents it has; so an agent that only has what its class
declares costs no more here than its place among the agents of its type.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from msgspec import Raw

from swell.app import App
from swell.codec import decode
from swell.errors import SwellError
from swell.topics import Event, Subscription, TopicIndex
from swell.where import Test, compiled

log = logging.getLogger(__name__)


class Declared:
    """A subscription that a class declares."""

    __slots__ = ("handler", "test", "type")

    def __init__(self, type: str, subscription: Subscription) -> None:
        self.type = type
        self.handler = subscription.handler
        self.test = compiled(subscription.where) if subscription.where is not None else None


class Own:
    """A subscription that one agent made."""

    __slots__ = ("agent", "handler", "test", "topic")

    def __init__(self, agent: str, subscription: Subscription) -> None:
        self.agent = agent
        self.topic = subscription.topic
        self.handler = subscription.handler
        self.test = compiled(subscription.where) if subscription.where is not None else None


class Body:
    """An event's body, decoded when the first filter looks at it."""

    __slots__ = ("_decoded", "_raw")

    def __init__(self, raw: Raw) -> None:
        self._raw: Raw | None = raw
        self._decoded: Any = None

    def passes(self, test: Test | None) -> bool:
        """Whether a filter holds for it; none holds for all.

        Raises:
            WireError: it cannot be read.
        """
        if test is None:
            return True
        if self._raw is not None:
            self._decoded, self._raw = decode(self._raw, Any), None
        return test(self._decoded)


def declared_by(app: App) -> TopicIndex[Declared]:
    """The index of what an app's classes declare for each of their agents, groups left out."""
    index: TopicIndex[Declared] = TopicIndex()
    for type in app.types.values():
        for subscription in type.subscriptions:
            if not subscription.group:
                index.add(subscription.topic, Declared(type.name, subscription))
    return index


class Subscribers:
    """The agents of one shard that hear of events.

    Args:
        app: whose types.
        declared: see `declared_by`.
    """

    def __init__(self, app: App, declared: TopicIndex[Declared]) -> None:
        self._app = app
        self._declared = declared
        self._members: dict[str, dict[str, None]] = {}
        self._index: TopicIndex[Own] = TopicIndex()
        self._own: dict[str, dict[tuple[str, str], Own]] = {}

    def add(self, agent: str, subscriptions: Iterable[Subscription]) -> None:
        """An agent lives, and has made these subscriptions at run time."""
        self._members.setdefault(agent.partition("/")[0], {})[agent] = None
        for one in subscriptions:
            try:
                self.subscribe(agent, one)
            except SwellError as error:  # Another release wrote it: the agent's other subscriptions hold all the same.
                log.error("subscription cannot be read: %s", error, extra={"agent": agent})

    def remove(self, agent: str) -> None:
        """An agent has ended."""
        members = self._members.get(agent.partition("/")[0])
        if members is not None:
            members.pop(agent, None)
        for one in self._own.pop(agent, {}).values():
            self._index.remove(one.topic, one)

    def subscribe(self, agent: str, subscription: Subscription) -> None:
        """An agent wants this, too; what it wanted of the same topic with the same handler is no more."""
        self.unsubscribe(agent, subscription)
        if not subscription.group:
            one = self._own.setdefault(agent, {})[subscription.topic, subscription.handler] = Own(agent, subscription)
            self._index.add(one.topic, one)

    def unsubscribe(self, agent: str, subscription: Subscription) -> None:
        """An agent wants this no more."""
        if not subscription.group:
            one = self._own.get(agent, {}).pop((subscription.topic, subscription.handler), None)
            if one is not None:
                self._index.remove(one.topic, one)

    def match(self, event: Event, body: Body) -> dict[str, dict[str, None]]:
        """The agents that an event is for, by the handler that it calls; each agent once for a handler."""
        found: dict[str, dict[str, None]] = {}
        if event.handler:
            self._add_broadcast(event, found)
            return found
        for declared in self._declared.match(event.topic):
            members = self._members.get(declared.type)
            if members and body.passes(declared.test):
                found.setdefault(declared.handler, {}).update(members)
        for own in self._index.match(event.topic):
            if body.passes(own.test):
                found.setdefault(own.handler, {})[own.agent] = None
        return found

    def _add_broadcast(self, event: Event, found: dict[str, dict[str, None]]) -> None:
        for type in self._app.types.values():
            members = self._members.get(type.name)
            if members and event.topic in ("", type.name) and event.handler in type.handlers:
                found.setdefault(event.handler, {}).update(members)
