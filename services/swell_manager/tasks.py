"""The manager's HTTP for tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import delete, get, post
from litestar.exceptions import NotFoundException
from litestar.params import Parameter
from litestar.response import ServerSentEvent, ServerSentEventMessage
from litestar.types import ControllerRouterHandler
from msgspec import Meta, Struct

from swell.client import Client
from swell.errors import CallError, CallTimeout
from swell.priority import Priority
from swell.quorum import Answers
from swell.submitting import Task
from swell.task import KEEP_S, Step, TaskView

#: Tasks of one answer; and how long a stream of one task's parts may last, seconds.
MOST_TASKS = 10_000
MOST_STREAM_S = 3600.0
MOST_ASK_S = 300.0
IdempotencyKey = Annotated[str | None, Parameter(header="Idempotency-Key")]


class NewTask(Struct, forbid_unknown_fields=True):
    """Have any agent of `type` run `handler` with this `body`; `then` are further steps, each `[type, handler]`.

    It expires unbegun `ttl` seconds after it was taken, or at `deadline`. Its outcome is kept for `keep` seconds.
    """

    type: str
    handler: str
    body: Any = None
    then: list[Step] = []
    ttl: float | None = None
    deadline: datetime | None = None
    keep: float = KEEP_S
    priority: Priority = "normal"


class ManyAsked(Struct, forbid_unknown_fields=True):
    """A question to many agents (`type/key`); answered when `quorum` of them have answered, or all have ended.

    Whoever has not begun `ttl` seconds after it was taken, or by `deadline`, is among the errors.
    """

    agents: list[str]
    name: str
    body: Any = None
    quorum: int | None = None
    timeout: Annotated[float, Meta(gt=0, le=MOST_ASK_S)] = 30.0
    ttl: float | None = None
    deadline: datetime | None = None
    priority: Priority = "normal"


class ManyAnswers(Struct):
    """What each agent answered, why others failed, and who was silent."""

    answers: dict[str, Any]
    errors: dict[str, str]
    silent: list[str]


@post("/tasks", status_code=202, summary="Submit a task")
async def submit(client: Client, data: NewTask, key: IdempotencyKey = None) -> dict[str, str]:
    """Submit a task; when this answers it is durable. The `Idempotency-Key` is its id: again, it is not done again."""
    steps = [(data.type, data.handler), *((step.type, step.name) for step in data.then)]
    when: dict[str, Any] = {"ttl": data.ttl, "deadline": data.deadline}
    task = await client.chain(steps, data.body, key=key or "", keep=data.keep, priority=data.priority, **when)
    task.forget()
    return {"id": task.id}


@get("/tasks", summary="Tasks")
async def list_tasks(
    client: Client,
    task_state: Annotated[str, Parameter(query="state")] = "",
    limit: Annotated[int, Parameter(ge=1, le=MOST_TASKS)] = 100,
) -> list[TaskView]:
    """Tasks that wait, run, or ended and are kept, the newest first."""
    return await client.tasks(task_state, limit)


@get("/tasks/{id:str}", summary="One task")
async def show_task(client: Client, id: str) -> TaskView:
    """What is recorded of a task now."""
    view = await client.show_task(id)
    if view is None:
        raise NotFoundException(f"there is no task {id!r}: it never was, or is kept no longer")
    return view


@get("/tasks/{id:str}/events", summary="A task's parts and result as server-sent events")
async def follow_task(client: Client, id: str) -> ServerSentEvent:
    """Each event `part` is one that the handler sends from now on; the last is `result` or `error`."""
    return ServerSentEvent(_events(await client.task(id, timeout=MOST_STREAM_S)))


async def _events(task: Task) -> AsyncIterator[ServerSentEventMessage]:
    try:
        async for part in task:
            yield ServerSentEventMessage(event="part", data=msgspec.json.encode(part).decode())
        result: Any = await task.result()
        yield ServerSentEventMessage(event="result", data=msgspec.json.encode(result).decode())
    except (CallError, CallTimeout) as error:
        said = {"kind": type(error).__name__, "reason": str(error)}
        yield ServerSentEventMessage(event="error", data=msgspec.json.encode(said).decode())
    finally:
        task.forget()


@delete("/tasks/{id:str}", status_code=200, summary="Cancel a task")
async def cancel_task(client: Client, id: str) -> dict[str, bool]:
    """End a task; `cancelled` is false if it had ended. 404 if there is none: it never was, or was forgotten."""
    return {"cancelled": await client.cancel_task(id)}


@post("/ask_many", status_code=200, summary="Ask many agents at once")
async def ask_many(client: Client, data: ManyAsked) -> ManyAnswers:
    """Ask many agents, and answer when enough of them have."""
    terms: dict[str, Any] = {"ttl": data.ttl, "deadline": data.deadline, "priority": data.priority}
    found: Answers[Any] = await client.ask_many(
        data.agents, data.name, data.body, quorum=data.quorum, timeout=data.timeout, **terms
    )
    errors = {id: str(error) for id, error in found.errors.items()}
    return ManyAnswers(found.answers, errors, found.silent)


#: All routes of this file, under /v1.
ROUTES: list[ControllerRouterHandler] = [submit, list_tasks, show_task, follow_task, cancel_task, ask_many]
