r"""A task: work for any agent of a type, kept by its home until its outcome was told, and for a while after that.

    submit --$task--> home: recorded, queued --a message--> an agent that is free --$task_ended--> home: recorded, told
                        ^                                        |
                        +---- the agent has ended: another ------+          chain: the result is the next step's body

A task's home is the shard that its id hashes to. What it knows is a record, `$task/<id>`, written by the shard's owner
with the end of the message that changed it: each step is taken once, whatever process dies; handlers run at least once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Collection
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Raw, Struct

from swell.bus.caller import Call, Caller
from swell.codec import UNDECODABLE, decode, encode
from swell.errors import CallTimeout, WireError
from swell.keys import shard_of
from swell.priority import Priority
from swell.wire import NIL, Failure

_T = TypeVar("_T")

TaskState = Literal["queued", "running", "done", "failed", "cancelled", "expired"]
TASK_STATES: tuple[TaskState, ...] = get_args(TaskState)
#: Records of tasks begin with it; see `swell.keys.is_task`.
PREFIX = "$task/"
#: Records of outcomes that their home may not have been told of yet.
OUTBOX = "$task!"
#: How long an outcome is kept unless the submitter says otherwise, and at most; seconds.
KEEP_S = 3600.0
MOST_KEEP_S = 7 * 86_400.0
#: Steps of a chain.
MOST_STEPS = 100
#: Parts that wait to be taken from a `Task`, and bytes of them; of more the oldest are dropped.
MOST_PARTS = 10_000
MOST_PARTS_BYTES = 16 << 20


class Step(Struct, array_like=True):
    """One step of a task: a handler of a type's agents."""

    type: str
    name: str


class TaskRequest(Struct, omit_defaults=True):
    """Body of `$task`, sent to the task's home. The same again joins the task that is there.

    Attributes:
        id: chosen by the submitter; the idempotency key.
        steps: one, or those of a chain: the result of each is the body of the next.
        body: of the first step.
        priority: of its messages.
        until_us: too late to begin a step, microseconds since 1970; 0 for never.
        keep_s: how long the outcome is kept, seconds.
        sender: the agent that submits it, if one does.
    """

    id: str
    steps: list[Step]
    body: Raw = NIL
    priority: Priority = "normal"
    until_us: Annotated[int, Meta(ge=0, le=10**16)] = 0
    keep_s: Annotated[float, Meta(ge=0, le=MOST_KEEP_S)] = KEEP_S
    sender: str = ""


class TaskRecord(Struct, omit_defaults=True):
    """What a home keeps of a task.

    Attributes:
        request: as it came, without its body.
        digest: of the request, to tell another one under the same id.
        state: see `TaskState`.
        step: which step it is at, from 0.
        body: of that step, until the task has ended.
        agent: who has it, or had it last.
        tries: times that it was given to an agent.
        since_ms: when it came, milliseconds since 1970; `ended_ms`: when it ended.
        waiting: who waits for it: (process, call) pairs.
        result: what the last step's handler returned.
        failure: why there is no result.
    """

    request: TaskRequest
    digest: str
    state: TaskState = "queued"
    step: int = 0
    body: Raw = NIL
    agent: str = ""
    tries: int = 0
    since_ms: int = 0
    ended_ms: int = 0
    waiting: list[tuple[str, int]] = []
    result: Raw = NIL
    failure: Failure | None = None


class TaskQuestion(Struct):
    """Body of `$task_wait` and `$task_cancel`: which task."""

    id: str


class TaskPlace(Struct, array_like=True):
    """The header of a task's message: its home and id, which step and try it is, and who hears its parts.

    The priority is written down with the outcome: it goes home as urgently as the message came.
    """

    home: str
    id: str
    step: int
    tries: int
    listeners: list[tuple[str, int]] = []
    priority: Priority = "normal"


class TaskEnded(Struct, omit_defaults=True):
    """Body of `$task_ended`, sent to the home: what came of a step, at which agent and try."""

    id: str
    step: int
    agent: str = ""
    tries: int = 0
    result: Raw = NIL
    failure: Failure | None = None


class TaskView(Struct, omit_defaults=False):
    """A task as users see it.

    Attributes:
        id: its id.
        type: of the agents of the step that it is at, or ended in; `name`: the handler.
        state: queued, running, done, failed, cancelled or expired.
        agent: who has it, or had it last.
        step: from 1, of `steps`.
        tries: times that it was given to an agent.
        reason: why there is no result.
        since_ms: when it came, milliseconds since 1970; `ended_ms`: when it ended, 0 if it has not.
    """

    id: str
    type: str
    name: str
    state: TaskState
    agent: str
    step: int
    steps: int
    tries: int
    priority: Priority
    reason: str
    since_ms: int
    ended_ms: int


def view(record: TaskRecord) -> TaskView:
    """A task as its record shows it."""
    step = record.request.steps[record.step]
    return TaskView(
        record.request.id,
        step.type,
        step.name,
        record.state,
        record.agent,
        record.step + 1,
        len(record.request.steps),
        record.tries,
        record.request.priority,
        record.failure.message if record.failure is not None else "",
        record.since_ms,
        record.ended_ms,
    )


def digest(request: TaskRequest) -> str:
    """What tells two requests under one id apart: the work; not how long it may take or who sends it."""
    return hashlib.sha256(encode((request.steps, request.body))).hexdigest()[:32]


def home_of(id: str, shards: int) -> str:
    """The shard that keeps a task."""
    return str(shard_of(PREFIX + id, shards))


class Parts:
    """An answer under way whose handler may send parts of it before. Iterate for the parts, then take the result.

    Attributes:
        id: the task's; "" for a question to one agent.
    """

    def __init__(
        self, caller: Caller, what: tuple[str, str], timeout: float, id: str = "", inboxes: Collection[str] = ()
    ) -> None:
        self.id = id
        self._caller = caller
        self._what = what
        self._timeout = timeout
        self._call = caller.begin(self._heard, inboxes)
        self._parts: deque[Raw] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._call.future.add_done_callback(lambda _: self._news.set())

    @property
    def call(self) -> Call:
        """Where the answer comes."""
        return self._call

    @property
    def done(self) -> bool:
        """Whether the result, or the failure, is there."""
        return self._call.future.done()

    def _heard(self, body: Raw) -> None:
        # A copy: what came is a view of the whole entry, with replies to others.
        self._parts.append(body.copy())
        self._bytes += len(body)
        while len(self._parts) > MOST_PARTS or self._bytes > MOST_PARTS_BYTES:
            self._bytes -= len(self._parts.popleft())
        self._news.set()

    def deafen(self) -> None:
        """Take no parts, for nobody will iterate: then they take no memory."""
        self._call.progress = None
        self._parts.clear()

    def forget(self) -> None:
        """Listen no more; a task goes on."""
        self._caller.end(self._call)

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Yield the parts as they come, until the result is there.

        A handler that is tried again, or elsewhere, sends its parts again from the first. Parts that are not taken
        wait, 10,000 and 16 MiB at most: of more the oldest are dropped.
        """
        while True:
            while self._parts:
                part = self._parts.popleft()
                self._bytes -= len(part)
                yield decode(part, object)
            if self.done:
                return
            self._news.clear()
            await self._news.wait()

    async def result(self, type: type[_T] | Any = Any, *, timeout: float | None = None) -> _T:
        """What the handler returned.

        Args:
            type: what it is decoded as.
            timeout: limit, seconds; by default as was said when it was begun.

        Raises:
            CallTimeout: no answer in time; a task goes on.
            Expired, Cancelled, HandlerFailed, WrongBody, UnknownHandler: there is no result, and never will be.
            WireError: it is not of that type.
        """
        limit = self._timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                answer = await asyncio.shield(self._call.future)
        except TimeoutError:
            raise CallTimeout(*self._what, limit) from None
        try:
            found: _T = msgspec.msgpack.decode(answer, type=type)
        except UNDECODABLE as error:
            raise WireError(f"the result of {' '.join(self._what)!r} is not what was asked for: {error}") from None
        return found
