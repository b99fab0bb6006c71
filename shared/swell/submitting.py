"""Tasks, as a client submits and follows them: `run`, `submit`, `chain`, and parts of an answer ahead of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from swell.bus.keyed import check_key
from swell.codec import decode, raw
from swell.errors import CallTimeout, SwellError, WrongBody
from swell.expiry import expiry
from swell.priority import Priority, inbox_of
from swell.registry import readable
from swell.task import (
    KEEP_S,
    MOST_KEEP_S,
    MOST_STEPS,
    PREFIX,
    Parts,
    Step,
    TaskQuestion,
    TaskRecord,
    TaskRequest,
    TaskState,
    TaskView,
    home_of,
    view,
)
from swell.tasks import MOST_AGENTS, Outcome, bounded
from swell.wire import TASK, TASK_CANCEL, TASK_WAIT, TO_SHARD
from swell.working import Working

_T = TypeVar("_T")
#: How long a home may take to answer a question about a task, seconds.
QUESTION_TIMEOUT_S = 30.0


class Submitting(Working):
    """What a client has agents do, whichever is free, also when nobody is yet, and when it is gone itself."""

    async def submit(
        self,
        type: str,
        name: str,
        body: Any = None,
        *,
        key: str = "",
        timeout: float = 30.0,
        ttl: float | None = None,
        deadline: datetime | None = None,
        keep: float = KEEP_S,
        priority: Priority = "normal",
        sender: str = "",
        then: Sequence[tuple[str, str]] = (),
    ) -> Parts:
        """Have whichever agent of a type is free do something; returns when that is durable.

            task = await client.submit("resizer", "resize", "a.png")
            async for part in task: ...
            size = await task.result(Size)

        The agent that is least busy takes it, at once or when one is free; while there is none, it waits. It is given
        to another if that one ends, retried by its agent as any message is, and dead-lettered there when it fails for
        good.

        Args:
            type: of the agents.
            name: the handler.
            body: anything msgspec can encode; at most 1 MiB encoded.
            key: the task's id. The same again joins the task that is there, also when it has ended; it is done once.
            timeout: how long `result` waits unless it says otherwise, seconds.
            ttl: too late to begin it after so long, seconds; it ends as expired then.
            deadline: the same as a moment; give one of the two.
            keep: how long its result, or its failure, is kept after it has ended, seconds, 604,800 at most. The newest
                10,000 of each shard are, or 32 MiB.
            priority: of the task: more urgent ones are given out, and handled, first.
            sender: the agent that submits it, if one does.
            then: further steps, (type, handler) pairs: each gets the result of the one before as its body.

        Raises:
            WrongBody: one of these cannot be; the text says what to change.
            WireError: the body cannot be encoded or is too large.
            BrokerRefused: the server does not take it.
        """
        request = _request(TaskRequest(key, [Step(type, name), *(Step(*step) for step in then)]), raw(body), keep)
        until = expiry(ttl, deadline)
        now_us = time.time_ns() // 1000
        request.until_us = until.at_us(now_us) if until is not None else 0
        request.priority, request.sender = priority, sender
        home = home_of(request.id, self.shards)
        parts = await self._parts((f"{type}.{name}", f"task {request.id}"), timeout, request.id)
        try:
            message = (TO_SHARD, TASK, request, now_us, sender, self.process, parts.call.number)
            await self.producer.send(inbox_of(home, priority), message)
        except BaseException:
            parts.forget()
            raise
        return parts

    async def run(
        self,
        type: str,
        name: str,
        body: Any = None,
        result: type[_T] | Any = Any,
        *,
        timeout: float = 30.0,
        key: str = "",
        **options: Any,
    ) -> _T:
        """Have whichever agent of a type is free do something, and wait for its result; see `submit` for the options.

        If it has not ended in time, or we are cancelled, the task is cancelled, unless it has a key: then others may
        wait for it, or we again.

        Args:
            type: of the agents.
            name: the handler.
            body: anything msgspec can encode.
            result: what the result is decoded as.
            timeout: limit, seconds.
            key: the task's id.
            options: see `submit`.

        Raises:
            CallTimeout: no result in time.
            UnknownType: the workers have no such agents.
            Expired, Cancelled, HandlerFailed, WrongBody, UnknownHandler: there is no result, and never will be.
        """
        task = await self.submit(type, name, body, key=key, timeout=timeout, **options)
        try:
            answer: _T = await task.result(result)
        except BaseException:
            if not key and not task.done:
                self._take_task_back(task.id, options.get("priority", "normal"))
            raise
        finally:
            task.forget()
        return answer

    async def chain(
        self, steps: Sequence[tuple[str, str]], body: Any = None, result: type[_T] | Any = Any, **options: Any
    ) -> _T:
        """Have agents do one thing after another, each with the result of the one before; returns the last result.

        It is one task: each step begins when the one before has ended, whoever lives by then.

        Args:
            steps: (type, handler) pairs, 1 to 100.
            body: of the first.
            result: what the last result is decoded as.
            options: see `run`.

        Raises:
            WrongBody: there is no step, or there are too many; or as for `run`.
        """
        if not 1 <= len(steps) <= MOST_STEPS:
            raise WrongBody("", f"steps: there are {len(steps)}; give 1 to {MOST_STEPS}", field="steps")
        (type, name), *then = steps
        answer: _T = await self.run(type, name, body, result, then=then, **options)
        return answer

    def map(
        self,
        type: str,
        name: str,
        bodies: Iterable[Any],
        result: type[_T] | Any = Any,
        *,
        timeout: float = 30.0,
        ordered: bool = False,
        max_in_flight: int = MOST_AGENTS,
        priority: Priority = "normal",
        durable: bool = False,
        **options: Any,
    ) -> AsyncIterator[Outcome[_T]]:
        """Have the agents of a type do something with each body: whoever is free takes the next.

            async for outcome in client.map("resizer", "resize", paths, Size):
                print(outcome.place, outcome.result)

        At most `max_in_flight` bodies are under way, or ended and not taken from the iterator, so thousands of them
        take bounded memory. What fails is an outcome, no error of the call. Left early (`aclose`), it cancels what is
        under way.

        As it is, each body is asked of an agent that this call finds free: that is fastest, and needs agents to be
        there. A body that an agent has is durable then, the rest is the caller's. With `durable`, each is a task
        (`submit`) of its own: it waits for agents, goes to another if one ends, and its outcome is kept.

        Args:
            type: of the agents.
            name: the handler.
            bodies: taken one by one, when somebody is free.
            result: what results are decoded as.
            timeout: limit for each, seconds; it begins when its body was taken.
            ordered: whether outcomes come in the order of the bodies, or as they come.
            max_in_flight: at most so many; without `durable` also not more than there are agents, and 10,000.
            priority: of the messages.
            durable: whether each is a task.
            options: with `durable`, those of `submit`; with a `key`, the task of place 3 has the id `key.3`.

        Raises:
            UnknownAgent: without `durable`: no agent of the type can be asked.
            WrongBody: `max_in_flight` cannot be that, or an option needs `durable`.
        """
        if not durable:
            if options:
                said = f"{', '.join(sorted(options))}: only tasks have that; say durable=True, or leave it out"
                raise WrongBody("", said, field=min(options))
            limits = timeout, max_in_flight
            return self._map((type, name, result), bodies, limits, ordered=ordered, priority=priority)
        if max_in_flight < 1:
            raise WrongBody("", f"max_in_flight: {max_in_flight} must be at least 1", field="max_in_flight")
        key = options.pop("key", "")

        async def one(place: int, body: Any) -> Outcome[_T]:
            own = f"{key}.{place}" if key else ""
            try:
                answer: _T = await self.run(
                    type, name, body, result, key=own, timeout=timeout, priority=priority, **options
                )
            except SwellError as error:
                return Outcome(place, "", error)
            return Outcome(place, "", None, answer)

        return bounded(bodies, one, max_in_flight, ordered=ordered)

    async def stream(
        self, to: str, name: str, body: Any = None, *, timeout: float = 30.0, priority: Priority = "normal"
    ) -> Parts:
        """Ask an agent, and get what its handler emits ahead of the result: iterate, then take `result`.

        Raises:
            WireError, BrokerRefused: as for `submit`.
        """
        parts = await self._parts((to, name), timeout)
        message = (to, name, body, time.time_ns() // 1000, "", self.process, parts.call.number)
        try:
            await self.producer.send(self.inbox(to, priority), message)
        except BaseException:
            parts.forget()
            raise
        return parts

    async def task(self, id: str, *, timeout: float = QUESTION_TIMEOUT_S) -> Parts:
        """A task that was submitted before, by whomever, to wait for its result.

        Its `result` raises `UnknownTask` if there is none of that id (any more). Parts come only to those who were
        there when the task was given to its agent.
        """
        parts = await self._parts(("task", id), timeout, id)
        message = (TO_SHARD, TASK_WAIT, TaskQuestion(id), time.time_ns() // 1000, "", self.process, parts.call.number)
        try:
            await self.producer.send(home_of(id, self.shards), message)
        except BaseException:
            parts.forget()
            raise
        return parts

    async def cancel_task(self, id: str, *, timeout: float = QUESTION_TIMEOUT_S) -> bool:
        """End a task that has not ended: it is given out no more, a handler that runs is cancelled.

        Returns:
            whether there was such a task.

        Raises:
            CallTimeout: nobody owns its home now; the request is durable.
        """
        answer = await self.request(home_of(id, self.shards), TO_SHARD, TASK_CANCEL, TaskQuestion(id), timeout)
        return decode(answer, bool)

    async def tasks(self, type: str = "", state: TaskState | None = None, limit: int = 100) -> list[TaskView]:
        """Tasks that have not ended, and those that are kept, the newest first.

        Args:
            type: only those at a step for this type of agents.
            state: only this state.
            limit: at most so many.
        """
        found: list[TaskView] = []
        for shard in self.shard_names:
            records = await self.broker.tasks(shard)
            kept = {id: record for id, record in records.items() if id.startswith(PREFIX)}
            found += [view(record) for _, record in readable(kept, TaskRecord)]
        wanted = [one for one in found if type in ("", one.type) and state in (None, one.state)]
        return sorted(wanted, key=lambda one: -one.since_ms)[:limit]

    async def task_view(self, id: str) -> TaskView | None:
        """One task as its record shows it; None if there is none (any more)."""
        record = await self.broker.record(home_of(id, self.shards), PREFIX + id)
        return view(decode(record, TaskRecord)) if record is not None else None

    async def _parts(self, what: tuple[str, str], timeout: float, id: str = "") -> Parts:
        if not self.caller.is_open:
            try:
                await self.caller.opened(timeout)
            except TimeoutError:
                raise CallTimeout(*what, timeout) from None
        return Parts(self.caller, what, timeout, id)

    def _take_task_back(self, id: str, priority: Priority) -> None:
        """Have a task cancelled, without waiting for it."""
        lane = self.producer.lane(inbox_of(home_of(id, self.shards), priority))
        if not lane.room and lane.add((TO_SHARD, TASK_CANCEL, TaskQuestion(id), time.time_ns() // 1000)) is not None:
            self.producer.wake()


def _request(request: TaskRequest, body: Any, keep: float) -> TaskRequest:
    """Check what a request says, and give it a body and an id if it has none."""
    if not 0 <= keep <= MOST_KEEP_S:
        raise WrongBody("", f"keep: {keep:g} must be 0 or more, and at most {MOST_KEEP_S:.0f} seconds", field="keep")
    if len(request.steps) > MOST_STEPS:
        raise WrongBody("", f"then: there are {len(request.steps) - 1}; give {MOST_STEPS - 1} at most", field="then")
    request.id = check_key(request.id) if request.id else secrets.token_hex(12)
    request.body, request.keep_s = body, keep
    return request
