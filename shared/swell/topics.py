"""Topics: what events are published to, what agents subscribe to, and the index that finds who wants an event.

    publish("orders.17.paid") --$event--> every agents' shard: its owner matches, and gives each subscriber a message

A topic is 1 to 16 segments joined by dots. In a subscription `*` stands for one segment, `**` for any number of them.
The index is a tree of segments: what a look-up costs grows with the segments of the topic and with what matches, not
with the number of subscriptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Generic, Literal, TypeVar

from msgspec import Raw, Struct

from swell.errors import WrongBody
from swell.keys import SEGMENT
from swell.where import Where, compiled

_V = TypeVar("_V")
_SEGMENT = re.compile(r"[A-Za-z0-9_:@-]{1,128}\Z")
#: Segments of a topic, or of a pattern.
MOST_SEGMENTS = 16
#: Subscriptions of one agent that were made at run time.
MOST_SUBSCRIPTIONS = 1_000
#: Topics whose subscribers an index remembers.
KNOWN_TOPICS = 1_024

#: To whom of a group an event goes.
Pick = Literal["round_robin", "random", "least_busy"]
PICKS = ("round_robin", "random", "least_busy")


class Subscription(Struct, frozen=True, omit_defaults=True):
    """What an agent wants to hear of.

    Attributes:
        topic: a pattern.
        handler: what is called with the body.
        where: only bodies for which this holds; None for all.
        group: one of all that subscribe with this group's name gets each event; "" for every subscriber.
        pick: which one of the group.
    """

    topic: str
    handler: str
    where: Where | None = None
    group: str = ""
    pick: Pick = "round_robin"


class Event(Struct, omit_defaults=True):
    """Body of `$event`, sent to every agents' shard: published to a topic; or, with a `handler`, broadcast.

    Attributes:
        topic: of an event; of a broadcast the agents' type, "" for all types that have such a handler.
        body: what each subscriber's handler is called with.
        handler: of a broadcast.
    """

    topic: str
    body: Raw
    handler: str = ""


class Subscribe(Struct, omit_defaults=True):
    """Body of `$subscribe`, sent to an agent's shard: it wants this from now on, or (`end`) no more."""

    agent: str
    subscription: Subscription
    end: bool = False


class Member(Struct, omit_defaults=True):
    """Body of `$member`, sent to the home shard of a group: an agent belongs to it from now on, or (`end`) no more.

    With `end` and no topic it leaves altogether.
    """

    agent: str
    subscription: Subscription
    end: bool = False


class SubscriptionView(Struct, omit_defaults=True):
    """A subscription that an agent made at run time, as people see it."""

    agent: str
    topic: str
    handler: str
    where: Where | None = None
    group: str = ""
    pick: Pick = "round_robin"


def checked(subscription: Subscription) -> Subscription:
    """Return what may be a subscription.

    Raises:
        WrongBody: its topic, filter, group or pick cannot be one; the text says what to change.
    """
    check_pattern(subscription.topic)
    if subscription.where is not None:
        compiled(subscription.where)
    if subscription.group and not SEGMENT.match(subscription.group):
        what = f"{subscription.group!r} is not 1 to 128 letters, digits, '.', '_' or '-'"
        raise WrongBody("", f"group: {what}", field="group")
    if subscription.pick not in PICKS:
        raise WrongBody("", f"pick: {subscription.pick!r} is none of {', '.join(PICKS)}", field="pick")
    return subscription


def home_of(group: str) -> str:
    """What is given to `shard_of` to find the shard in which a group's members are kept."""
    return f"$group/{group}"


def check_topic(topic: str) -> str:
    """Return what may be a topic.

    Raises:
        WrongBody: it is not 1 to 16 segments of letters, digits, `_`, `-`, `:` or `@`, joined by dots.
    """
    return _check(topic, ())


def check_pattern(topic: str) -> str:
    """Return what may be subscribed to.

    Raises:
        WrongBody: it is no topic, even with `*` and `**` for segments.
    """
    return _check(topic, ("*", "**"))


def _check(topic: str, signs: tuple[str, ...]) -> str:
    segments = topic.split(".")
    for segment in segments:
        if not _SEGMENT.match(segment) and segment not in signs:
            hint = "" if signs or segment not in ("*", "**") else ": only subscriptions may have it"
            what = f"{segment!r} is not 1 to 128 letters, digits, '_', '-', ':' or '@'{hint}"
            raise WrongBody("", f"topic: {topic!r}: {what}", field="topic")
    if len(segments) > MOST_SEGMENTS:
        raise WrongBody("", f"topic: {topic!r} has more than {MOST_SEGMENTS} segments", field="topic")
    return topic


class _Node(Generic[_V]):
    """A segment of the tree: what follows it, and who subscribed to the pattern that ends here."""

    __slots__ = ("below", "values")

    def __init__(self) -> None:
        self.below: dict[str, _Node[_V]] = {}
        self.values: dict[_V, None] = {}


class TopicIndex(Generic[_V]):
    """Patterns, and what subscribed to each: any hashable values."""

    def __init__(self) -> None:
        self._root: _Node[_V] = _Node()
        self._known: dict[str, tuple[dict[_V, None], ...]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, pattern: str, value: _V) -> None:
        """Subscribe a value to a pattern; again, it changes nothing."""
        node = self._root
        for segment in pattern.split("."):
            following = node.below.get(segment)
            if following is None:
                following = node.below[segment] = _Node()
                self._known.clear()
            node = following
        if not node.values:
            self._known.clear()
        self._size += value not in node.values
        node.values[value] = None

    def remove(self, pattern: str, value: _V) -> None:
        """Take a value out again; nothing, if it is not there."""
        path: list[tuple[_Node[_V], str]] = []
        node = self._root
        for segment in pattern.split("."):
            path.append((node, segment))
            following = node.below.get(segment)
            if following is None:
                return
            node = following
        if value not in node.values:
            return
        del node.values[value]
        self._size -= 1
        while path and not node.values and not node.below:
            node, segment = path.pop()
            del node.below[segment]
            self._known.clear()

    def match(self, topic: str) -> Iterator[_V]:
        """Yield what subscribed to patterns that fit a topic; a value once for each of them."""
        found = self._known.get(topic)
        if found is None:
            nodes: dict[int, dict[_V, None]] = {}
            self._find(self._root, topic.split("."), 0, nodes, set())
            found = tuple(nodes.values())
            if len(self._known) >= KNOWN_TOPICS:
                self._known.clear()
            self._known[topic] = found
        for values in found:
            yield from values

    def _find(
        self,
        node: _Node[_V],
        segments: list[str],
        place: int,
        found: dict[int, dict[_V, None]],
        seen: set[tuple[int, int]],
    ) -> None:
        """Collect what fits from a place on; `seen` keeps patterns of many `**` from being walked again and again."""
        below = node.below
        rest = below.get("**")
        if rest is not None:
            for after in range(place, len(segments) + 1):
                if (id(rest), after) not in seen:
                    seen.add((id(rest), after))
                    self._find(rest, segments, after, found, seen)
        if place == len(segments):
            if node.values:
                found[id(node)] = node.values
            return
        for segment in (segments[place], "*"):
            following = below.get(segment)
            if following is not None:
                self._find(following, segments, place + 1, found, seen)
