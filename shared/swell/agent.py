"""What an agent is to the person who writes it: a class with handlers.

    class Reviewer(Agent):
        async def started(self, args: Options) -> None: ...     # the parameter may be left out
        @handler
        async def review(self, body: Review) -> Verdict: ...    # the parameter and the result may be left out

An agent handles one message at a time, in the order each sender sent them.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from swell.errors import AppError, WrongBody
from swell.priority import Priority
from swell.topics import Pick, Subscription, checked
from swell.where import Where

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from swell.client import Client, Plan
    from swell.facts import Facts
    from swell.quorum import Answers

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_MARK = "__swell_handler__"


@overload
def handler(function: _F, /) -> _F: ...
@overload
def handler(
    *, topic: str | Sequence[str] = (), where: Where | None = None, group: str = "", pick: Pick = "round_robin"
) -> Callable[[_F], _F]: ...
def handler(
    function: _F | None = None,
    /,
    *,
    topic: str | Sequence[str] = (),
    where: Where | None = None,
    group: str = "",
    pick: Pick = "round_robin",
) -> _F | Callable[[_F], _F]:
    """Mark a coroutine method as one that messages call, by its name; with a topic, events call it too.

    An asynchronous generator may be one, too: what it yields is emitted, as by `Agent.emit`, and its result is None.

    Args:
        function: the method, where it is used without brackets.
        topic: what all agents of the type subscribe to, a pattern or several; see `Agent.subscribe`.
        where: only events whose bodies it holds for.
        group: each event goes to one of all that subscribe under this name.
        pick: to which of the group.

    Raises:
        AppError: it is not a coroutine function, its name begins with `_`, or the subscription cannot be one.
    """

    def mark(function: _F) -> _F:
        name = function.__qualname__
        if inspect.isasyncgenfunction(function):
            function = emitting(function)
        if not inspect.iscoroutinefunction(function):
            raise AppError(f"handler {name} must be 'async def'")
        if function.__name__.startswith("_"):
            raise AppError(f"handler {name} must not begin with '_'")
        topics = (topic,) if isinstance(topic, str) else tuple(topic)
        if not topics and (where is not None or group):
            raise AppError(f"handler {name}: 'where' and 'group' are about events; give a topic")
        try:
            found = [checked(Subscription(one, function.__name__, where, group, pick)) for one in topics]
        except WrongBody as error:
            raise AppError(f"handler {name}: {error}") from None
        setattr(function, _MARK, tuple(found))
        return function

    return mark if function is None else mark(function)


def emitting(function: Any) -> Any:
    """A coroutine method that emits what a generator method yields."""

    @functools.wraps(function)
    async def emit_all(self: Agent, *body: Any) -> None:
        async with contextlib.aclosing(function(self, *body)) as parts:
            async for part in parts:
                await self.emit(part)

    return emit_all


class Agent:
    """An addressable actor. Subclass it, mark methods with `@handler`, declare it with `@app.agent(...)`.

    A subclass may declare `state: Account`, a msgspec.Struct with a default for every field. Then `self.state` is there
    before `started`, and what handlers make of it is kept, exactly as far as their messages are settled.

    Attributes:
        id: `type/key`.
    """

    id: str = ""
    _client: Client
    _save: Callable[[], None]
    _emit: Callable[[str, Any], Awaitable[bool]]

    @property
    def key(self) -> str:
        """The id without the type."""
        return self.id.partition("/")[2]

    @property
    def client(self) -> Client:
        """What it sends with: for tasks (`self.client.run`), and all else that a client can do."""
        return self._client

    @property
    def facts(self) -> Facts:
        """What agents share: facts, locks, barriers. See `Client.facts`."""
        return self._client.facts.named(self.id)

    async def prepare(self) -> None:
        """Slow set-up that needs neither the agent's id nor what it is spawned with: neither is there yet.

        Runs ahead of time if the type keeps warm agents (`app.agent(..., warm=...)`), else just before `started`.
        If it raises when an agent is born, the agent is `failed`.
        """

    async def discarded(self) -> None:
        """Runs when a warm agent that `prepare` has set up is let go without ever having been one."""

    async def started(self, *args: Any, **kwargs: Any) -> None:
        """Runs before the first message; slow set-up belongs here. If it raises, the agent is `failed`.

        Override it with no parameter, or with one: then that one is what `spawn` was given as `args`, decoded as the
        parameter's type. (The signature here is the one that type checkers let any other take the place of.)
        """

    async def passivated(self) -> None:
        """Runs when the agent is let go because it was idle for long (`app.agent(..., idle_after=...)`).

        Release what it holds: connections, files. The instance is gone then; the next message is handled by another,
        for which `prepare` and `started` run. What this makes of a kept `state` is kept. If it raises, or runs longer
        than the type's time limit, the agent is let go all the same.
        """

    async def stopped(self) -> None:
        """Runs after the last message when the agent is terminated, not when its worker moves it elsewhere."""

    def _swell_dropped(self) -> None:
        """The worker lets go of this instance, for whatever reason: nothing of it may go on, whoever still holds it.

        For agents that Swell makes itself (`swell.hosts`). It may be called twice, and must not raise.
        """

    @classmethod
    async def _swell_release(cls) -> None:
        """No worker of this process has agents of this class any more: let go of what they shared, if anything.

        For agents that Swell makes itself. They may come again, in another loop.
        """

    async def send(
        self,
        to: str,
        name: str,
        body: Any = None,
        *,
        wait: float | None = None,
        key: str = "",
        ttl: float | None = None,
        deadline: datetime | None = None,
        delay: float | None = None,
        at: datetime | None = None,
        id: str = "",
        priority: Priority = "normal",
    ) -> None:
        """Send a message; returns when it is durable. See `Client.send`."""
        limits: dict[str, Any] = {"wait": wait, "key": key, "ttl": ttl, "deadline": deadline, "priority": priority}
        await self._client.send(to, name, body, sender=self.id, delay=delay, at=at, id=id, **limits)

    async def send_many(
        self,
        messages: Iterable[tuple[str, str, Any]],
        *,
        wait: float | None = None,
        key: str = "",
        ttl: float | None = None,
        deadline: datetime | None = None,
        priority: Priority = "normal",
    ) -> int:
        """Send many messages, with one acknowledgement for all. See `Client.send_many`."""
        limits: dict[str, Any] = {"wait": wait, "key": key, "ttl": ttl, "deadline": deadline, "priority": priority}
        return await self._client.send_many(messages, sender=self.id, **limits)

    async def ask(
        self,
        to: str,
        name: str,
        body: Any = None,
        type: type[_T] | Any = Any,
        *,
        timeout: float = 30.0,
        wait: float | None = None,
        ttl: float | None = None,
        deadline: datetime | None = None,
        id: str = "",
        priority: Priority = "normal",
    ) -> _T:
        """Send a message and wait for its result. See `Client.ask`."""
        limits: dict[str, Any] = {"wait": wait, "ttl": ttl, "deadline": deadline, "id": id, "priority": priority}
        answer: _T = await self._client.ask(to, name, body, type, timeout=timeout, sender=self.id, **limits)
        return answer

    async def ask_many(
        self,
        agents: Iterable[str] | Mapping[str, Any],
        name: str,
        body: Any = None,
        type: type[_T] | Any = Any,
        *,
        quorum: int | None = None,
        timeout: float = 30.0,
        ttl: float | None = None,
        deadline: datetime | None = None,
        priority: Priority = "normal",
    ) -> Answers[_T]:
        """Ask many agents at once, and return when enough have answered. See `Client.ask_many`."""
        terms: dict[str, Any] = {"ttl": ttl, "deadline": deadline, "priority": priority, "sender": self.id}
        answers: Answers[_T] = await self._client.ask_many(
            agents, name, body, type, quorum=quorum, timeout=timeout, **terms
        )
        return answers

    async def emit(self, part: Any) -> bool:
        """Send a part of the answer, or how far it is, to whoever waits for what is being handled, ahead of the result.

        Parts of one run come in order, to those who listen then: who submitted the task or follows it, or asked by
        `client.stream`. A handler that is tried again sends them again; so does its worker if the server's answer to
        their writing is lost. Nothing of them is kept: what must not be lost belongs into the result.

        While 8 MiB of parts of the agent's worker are not written yet, because the server is away or slower than the
        handlers, this waits, first come, first served. Cancelled there, the part is not sent.

        Returns:
            whether somebody waits for an answer to this message at all.

        Raises:
            WireError: the part cannot be encoded, or is larger than 1 MiB.
        """
        return await self._emit(self.id, part)

    async def publish(
        self,
        topic: str,
        body: Any = None,
        *,
        wait: float | None = None,
        key: str = "",
        ttl: float | None = None,
        deadline: datetime | None = None,
        priority: Priority = "normal",
    ) -> None:
        """Publish an event; returns when it is durable. See `Client.publish`."""
        limits: dict[str, Any] = {"wait": wait, "key": key, "ttl": ttl, "deadline": deadline, "priority": priority}
        await self._client.publish(topic, body, sender=self.id, **limits)

    async def broadcast(self, name: str, body: Any = None, *, type: str = "", priority: Priority = "normal") -> None:
        """Send a message to all agents of a type, or to all that have such a handler. See `Client.broadcast`."""
        await self._client.broadcast(name, body, type=type, sender=self.id, priority=priority)

    async def subscribe(
        self,
        topic: str,
        name: str,
        *,
        where: Where | None = None,
        group: str = "",
        pick: Pick = "round_robin",
    ) -> None:
        """Have events call one of this agent's handlers from now on, as long as it lives. See `Client.subscribe`."""
        await self._client.subscribe(self.id, topic, name, where=where, group=group, pick=pick)

    async def unsubscribe(self, topic: str, name: str, *, group: str = "") -> bool:
        """Take a subscription that was made at run time back. See `Client.unsubscribe`."""
        return await self._client.unsubscribe(self.id, topic, name, group=group)

    async def cancel_message(self, to: str, id: str) -> bool:
        """End a message that was sent with this `id`. See `Client.cancel_message`."""
        return await self._client.cancel_message(to, id)

    async def pause(self, reason: str = "") -> None:
        """Have nothing more of this agent begun until somebody resumes it; returns when that is durable.

        The message that is being handled is finished. See `Client.pause`.
        """
        await self._client.hold_back(self.id, reason)

    async def spawn(self, type: str, **plan: Any) -> Plan:
        """Start agents in waves. See `Client.spawn`."""
        return await self._client.spawn(type, **plan)


class Handler:
    """A handler with what its annotations say.

    Attributes:
        name: what messages call it.
        function: the plain function, called with the agent first.
        takes_body: whether it has a parameter for the body.
        decode: turns the body's bytes into the parameter's type.
        decode_all: the same for an array of bodies.
        encodes: whether a result can be expected at all.
    """

    __slots__ = ("decode", "decode_all", "function", "name", "takes_body")

    def __init__(self, name: str, function: Callable[..., Awaitable[Any]]) -> None:
        self.name = name
        self.function = function
        body_type = parameter_type(function)
        self.takes_body = body_type is not None
        body_type = body_type if body_type is not None else Any
        self.decode: Callable[[Any], Any] = decoder(body_type, function)
        self.decode_all: Callable[[Any], list[Any]] = decoder(list[body_type], function)  # type: ignore[valid-type]


def parameter_type(function: Callable[..., Any], before: int = 1) -> Any | None:
    """The annotation of the body's parameter, `Any` if it has none, None if there is no such parameter.

    Args:
        function: a handler, or (`before=0`) a plain function.
        before: parameters in front of it: `self`.

    Raises:
        AppError: there are more parameters, or the annotation cannot be resolved.
    """
    parameters = list(inspect.signature(function).parameters.values())[before:]
    if not parameters:
        return None
    if len(parameters) > 1:
        raise AppError(f"{function.__qualname__} takes {len(parameters)} parameters; a handler takes the body alone")
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError) as error:
        raise AppError(f"{function.__qualname__}: its annotations cannot be resolved: {error}") from None
    return hints.get(parameters[0].name, Any)


def decoder(type: Any, function: Callable[..., Any]) -> Callable[[Any], Any]:
    """A decoder for bodies of `type`.

    Raises:
        AppError: msgspec cannot decode into that type.
    """
    try:
        return msgspec.msgpack.Decoder(type).decode
    except TypeError as error:
        raise AppError(f"{function.__qualname__}: bodies of type {type!r} cannot be decoded: {error}") from None


def handlers_of(agent: type[Agent]) -> dict[str, Handler]:
    """All handlers of a class, inherited ones included.

    Raises:
        AppError: one of them cannot work.
    """
    found: dict[str, Handler] = {}
    for name, member in inspect.getmembers(agent, inspect.isfunction):
        if hasattr(member, _MARK):
            found[name] = Handler(name, member)
    return found


def subscriptions_of(agent: type[Agent]) -> tuple[Subscription, ...]:
    """What the handlers of a class declare, inherited ones included."""
    members = inspect.getmembers(agent, inspect.isfunction)
    return tuple(one for _, member in members for one in getattr(member, _MARK, ()))
