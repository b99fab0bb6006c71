"""Tasks, as a client submits and follows them: work for whichever agent of a type is free, that outlives its caller."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from swell.asking import first_true
from swell.codec import decode
from swell.errors import SwellError, UnknownTask, WrongBody
from swell.later import check_name
from swell.priority import Priority, inbox_of, inboxes
from swell.registry import readable
from swell.task import (
    KEEP_S,
    PREFIX,
    TASK_STATES,
    Parts,
    TaskQuestion,
    TaskRecord,
    TaskRequest,
    TaskView,
    home_of,
    view,
)
from swell.task_request import request_of
from swell.tasks import MOST_AGENTS, Outcome, bounded
from swell.wire import TASK, TASK_CANCEL, TASK_WAIT, TO_SHARD
from swell.working import Working

_T = TypeVar("_T")

#: How long the owner of a task's home may take to answer a question, seconds.
QUESTION_TIMEOUT_S = 30.0
#: How long the outcome of what its caller waits for is kept, seconds: until a caller that lost its connection is back.
RUN_KEEP_S = 60.0


class Task(Parts):
    """A task that was submitted. Iterate for the parts that its handler sends, then take its `result`."""

    _client: Submitting
    _priority: Priority | None = None

    async def cancel(self) -> bool:
        """End it; returns whether it had not ended. See `Client.cancel_task`."""
        return await self._client._cancel_task(self.id, self._priority, QUESTION_TIMEOUT_S)


class Submitting(Working):
    """What a client submits as tasks."""

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
    ) -> Task:
        """Submit a task: any agent of the type that is free takes it. Returns when it is durable.

        It waits until an agent is there, and outlives its caller and every process. Its handler runs at least once; its
        outcome is taken once, and kept.

        Args:
            type: of the agents.
            name: the handler.
            body: anything msgspec can encode; at most 1 MiB encoded.
            key: the task's id, so that it can be followed from elsewhere; the same task submitted again under it is not
                done again. Made up if not given.
            timeout: how long `result` waits unless it is told otherwise, seconds; the task goes on.
            ttl: too late to begin it after so long, seconds: then it ends as expired.
            deadline: the same as a moment; give one of the two.
            keep: how long its outcome is kept, seconds; a week at most.
            priority: of its message, and before which other tasks it is given to an agent.
            sender: the agent that submits it, if one does.

        Raises:
            WrongBody: an argument cannot be; the text says which. The `result` raises it if the key has another task.
            WireError: the body cannot be encoded or is too large.
            Busy, BrokerUnavailable: as for `send`.
        """
        terms = {"key": key, "ttl": ttl, "deadline": deadline, "keep": keep, "priority": priority, "sender": sender}
        return await self._submit(request_of([(type, name)], body, terms), timeout)

    async def chain(
        self, steps: Sequence[tuple[str, str]], body: Any = None, *, timeout: float = 30.0, **terms: Any
    ) -> Task:
        """Submit a task of several steps: the result of each is the body of the next, and that of the last the task's.

        Args:
            steps: (type, handler) of each, 1 to 100.
            body: of the first.
            timeout: as for `submit`.
            terms: `key`, `ttl`, `deadline`, `keep`, `priority` and `sender`, as for `submit`.

        Raises:
            WrongBody, WireError, Busy, BrokerUnavailable: as for `submit`.
        """
        return await self._submit(request_of(steps, body, terms), timeout)

    async def submit_many(self, type: str, name: str, bodies: Iterable[Any], **terms: Any) -> list[str]:
        """Submit a task for each body, with one acknowledgement for all; returns their ids, in order.

        Follow them with `task`, or later. Under a `key` they are called `key-0`, `key-1`, ...: submitted again, none is
        done again.

        Args:
            type: of the agents.
            name: the handler.
            bodies: taken one by one.
            terms: as for `chain`.

        Raises:
            WrongBody, WireError, Busy, BrokerUnavailable: as for `submit`; tasks before it are submitted.
        """
        key, ids = terms.pop("key", "") or secrets.token_hex(10), []

        def messages() -> Iterator[tuple[str, tuple[Any, ...]]]:
            for place, body in enumerate(bodies):
                request = request_of([(type, name)], body, {**terms, "key": f"{key}-{place}"})
                ids.append(request.id)
                inbox = inbox_of(home_of(request.id, self.shards), request.priority)
                yield inbox, (TO_SHARD, TASK, request, time.time_ns() // 1000)

        await self.producer.send_many(messages())
        return ids

    async def run(
        self,
        type: str,
        name: str,
        body: Any = None,
        result: type[_T] | Any = Any,
        *,
        timeout: float = 30.0,
        **terms: Any,
    ) -> _T:
        """Have an agent of a type do something, and wait for the result: `submit`, then `result`.

        Without a key, nobody else can follow it: then it is cancelled when its time is over, or this call is cancelled,
        and its outcome is kept for a minute only.

        Args:
            type: of the agent.
            name: the handler.
            body: anything msgspec can encode.
            result: what the result is decoded as.
            timeout: limit, seconds.
            terms: as for `chain`.

        Raises:
            CallTimeout: no result in time; with a key, the task goes on.
            Expired, Cancelled, HandlerFailed, WrongBody, UnknownHandler: there is none.
        """
        own = not terms.get("key")
        if own:
            if terms.get("ttl") is None and terms.get("deadline") is None:
                terms["ttl"] = timeout
            terms.setdefault("keep", RUN_KEEP_S)
        task = await self.submit(type, name, body, timeout=timeout, **terms)
        task.deafen()
        try:
            found: _T = await task.result(result)
        except BaseException:
            if own and not task.done:
                message = (TO_SHARD, TASK_CANCEL, TaskQuestion(task.id), time.time_ns() // 1000)
                for inbox in self._both(task.id, task._priority):
                    lane = self.producer.lane(inbox)
                    if not lane.room and lane.add(message) is not None:
                        self.producer.wake()
            raise
        finally:
            task.forget()
        return found

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
        if not self.caller.is_open:
            await self.caller.opened(timeout)
        parts = Parts(self.caller, (to, name), timeout)
        message = (to, name, body, time.time_ns() // 1000, "", self.process, parts.call.number)
        try:
            await self.producer.send(self.inbox(to, priority), message)
        except BaseException:
            parts.forget()
            raise
        return parts

    async def _submit(self, request: TaskRequest, timeout: float) -> Task:
        inbox = inbox_of(home_of(request.id, self.shards), request.priority)
        first = request.steps[0]
        task = await self._follow([inbox], (request.id, TASK, request), (first.type, first.name), timeout)
        task._priority = request.priority
        return task

    async def task(self, id: str, *, timeout: float = 30.0) -> Task:
        """Follow a task that was submitted before, by whomever; its `result` raises `UnknownTask` if there is none.

        Of a handler that runs already, the parts from now on are heard.
        """
        question = TaskQuestion(check_name("id", id))
        return await self._follow(await self._where(id), (id, TASK_WAIT, question), (f"task {id}", "result"), timeout)

    async def _follow(
        self, inboxes: Sequence[str], asked: tuple[str, str, Any], what: tuple[str, str], timeout: float
    ) -> Task:
        """Send something about a task, by its id, name and body, to inboxes of its home, and follow it from then on."""
        if not self.caller.is_open:
            await self.caller.opened(QUESTION_TIMEOUT_S)
        id, name, body = asked
        task = Task(self.caller, what, timeout, id, inboxes)
        task._client = self
        try:
            message = (TO_SHARD, name, body, time.time_ns() // 1000, "", self.process, task.call.number)
            await self.producer.send_many((inbox, message) for inbox in inboxes)
        except BaseException:
            task.forget()
            raise
        return task

    async def cancel_task(self, id: str, *, timeout: float = QUESTION_TIMEOUT_S) -> bool:
        """End a task: it is not begun any more, or its handler is cancelled; returns whether it had not ended.

        Whoever waits for it is told `Cancelled`.

        Raises:
            UnknownTask: there is none of that id, or it is kept no longer.
            CallTimeout: nobody owns its home now; the request is durable.
        """
        if await self._cancel_task(check_name("id", id), None, timeout):
            return True
        if await self.show_task(id) is None:
            raise UnknownTask("", f"there is no task {id!r}: it never was, or was forgotten")
        return False

    async def _cancel_task(self, id: str, priority: Priority | None, timeout: float) -> bool:
        inboxes, question = await self._where(id, priority), TaskQuestion(id)
        return await first_true(self.request(one, TO_SHARD, TASK_CANCEL, question, timeout) for one in inboxes)

    async def _where(self, id: str, priority: Priority | None = None) -> list[str]:
        """The inboxes of a task's home that a question about it goes to, so that it does not overtake the task itself.

        One that is recorded was read: then that of critical messages is enough, and nothing lies before it there.
        """
        home = home_of(id, self.shards)
        if await self.broker.record(home, PREFIX + id) is not None:
            return [inbox_of(home, "critical")]
        return inboxes(home) if priority is None else self._both(id, priority)

    def _both(self, id: str, priority: Priority | None) -> list[str]:
        """The inbox of a task's home that is read first, and that which the task itself went to."""
        home = home_of(id, self.shards)
        return list(dict.fromkeys([inbox_of(home, "critical"), inbox_of(home, priority or "normal")]))

    async def show_task(self, id: str) -> TaskView | None:
        """What is recorded of a task now; None if there is none of that id."""
        record = await self.broker.record(home_of(id, self.shards), PREFIX + id)
        return view(decode(record, TaskRecord)) if record is not None else None

    async def tasks(self, state: str = "", limit: int = 1_000) -> list[TaskView]:
        """Tasks that wait, run, or ended and are kept: the newest first.

        Args:
            state: only these: queued, running, done, failed, cancelled or expired.
            limit: at most so many.

        Raises:
            WrongBody: no task is ever in that state.
        """
        if state not in ("", *TASK_STATES):
            raise WrongBody("", f"state: {state!r} must be one of {', '.join(TASK_STATES)}", field="state")
        found: list[TaskView] = []
        for shard in self.shard_names:
            records = {id: one for id, one in (await self.broker.tasks(shard)).items() if id.startswith(PREFIX)}
            found += [view(record) for _, record in readable(records, TaskRecord) if state in ("", record.state)]
        return sorted(found, key=lambda one: (-one.since_ms, one.id))[:limit]
