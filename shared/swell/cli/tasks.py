"""`swell run`, `swell map`, `swell ask-many` and `swell tasks`: work for whichever agent of a type is free."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from swell.cli import FAILED
from swell.cli.show import as_json, console
from swell.cli.talk import Body, Deadline, Name, Ttl, Urgency, check_agent, parse_json, until
from swell.cli.target import Target, connected
from swell.errors import ConfigError, WrongBody
from swell.quorum import Answers
from swell.submitting import Task
from swell.task import KEEP_S, TaskView
from swell.tasks import Outcome

Type = Annotated[str, Parameter(help="The type of the agents.")]
Timeout = Annotated[float, Parameter(help="Limit, seconds.")]
TaskKey = Annotated[str, Parameter(help="The task's id: submitted again under it, it is not done again.")]
Keep = Annotated[float, Parameter(help="How long the outcome is kept, seconds.")]
Then = Annotated[
    tuple[str, ...],
    Parameter(negative=(), help="A further step, TYPE.HANDLER; the result is its body. May be given again."),
]
TaskId = Annotated[str, Parameter(help="The task's id, or the key that it was submitted under.")]


def run(
    type: Type,
    name: Name,
    body: Body = None,
    /,
    *,
    then: Then = (),
    detach: Annotated[bool, Parameter(help="Print the task's id and return: follow it with `swell tasks`.")] = False,
    key: TaskKey = "",
    timeout: Timeout = 30.0,
    ttl: Ttl = None,
    deadline: Deadline = None,
    keep: Keep = KEEP_S,
    priority: Urgency = "normal",
    target: Target = Target(),  # noqa: B008
) -> None:
    """Have whichever agent of a type is free do something; parts that its handler sends are lines before the result."""
    terms: dict[str, Any] = {"key": key, "keep": keep, "priority": priority, **until(ttl, deadline)}
    steps = [(type, name), *map(_step, then)]
    _check_timeout(timeout)
    value = parse_json("body", body)

    async def go() -> None:
        async with connected(target) as client:
            task = await client.chain(steps, value, timeout=timeout, **terms)
            if not detach:
                await _told(task, target)
            elif target.json:
                as_json({"id": task.id})
            else:
                console().print(task.id)

    asyncio.run(go())


def _step(text: str) -> tuple[str, str]:
    """A step of a chain from the command line.

    Raises:
        ConfigError: it is none.
    """
    type, _, name = text.rpartition(".")
    if not type or not name:
        raise ConfigError("then", f"{text!r} must be TYPE.HANDLER, for example judge.judge")
    return type, name


async def _told(task: Task, target: Target) -> None:
    """Print the parts as they come, and the result."""

    async def parts() -> None:
        async for part in task:
            _line({"part": part} if target.json else part)

    async with asyncio.TaskGroup() as group:
        printing = group.create_task(parts())
        try:
            result: Any = await task.result()
            await printing
        except BaseException:
            printing.cancel()
            raise
    if target.json:
        _line({"id": task.id, "result": result})
    else:
        as_json(result)


def _line(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def map_bodies(
    type: Type,
    name: Name,
    /,
    *,
    ordered: Annotated[bool, Parameter(help="Print outcomes in the order of the bodies, not as they come.")] = False,
    timeout: Annotated[float, Parameter(help="Limit for each body, seconds.")] = 30.0,
    priority: Urgency = "normal",
    durable: Annotated[
        bool, Parameter(negative=(), help="Make each a task: it waits for agents, and its outcome is kept.")
    ] = False,
    key: Annotated[str, Parameter(help="With --durable: the tasks are called KEY.0, KEY.1, ...; see `run`.")] = "",
    ttl: Annotated[
        float | None, Parameter(help="With --durable: too late to begin one after so long, seconds.")
    ] = None,
    deadline: Deadline = None,
    keep: Annotated[float | None, Parameter(help="With --durable: how long outcomes are kept, seconds.")] = None,
    target: Target = Target(),  # noqa: B008
) -> int:
    """Have the agents of a type do something with each line of stdin, a JSON body; each outcome is a line of JSON."""
    _check_timeout(timeout)
    given = {"key": key or None, "keep": keep, **until(ttl, deadline)}
    terms: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    if terms and not durable:
        raise ConfigError("durable", f"only tasks have --{', --'.join(terms)}: give --durable, or leave it out")
    terms |= {"timeout": timeout, "ordered": ordered, "priority": priority, "durable": durable}

    async def go() -> int:
        failed = 0
        async with connected(target) as client:
            outcomes: AsyncIterator[Outcome[Any]] = client.map(type, name, _lines(), **terms)
            async for outcome in outcomes:
                line: dict[str, Any] = {"place": outcome.place, "agent": outcome.agent}
                if outcome.error is None:
                    _line({**line, "result": outcome.result})
                else:
                    failed += 1
                    _line({**line, "error": str(outcome.error)})
        return FAILED if failed else 0

    return asyncio.run(go())


def _lines() -> Iterator[Any]:
    for number, line in enumerate(sys.stdin, 1):
        if line.strip():
            yield _body(number, line)


def _body(number: int, line: str) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise ConfigError(f"line {number}", f"{line.strip()[:60]!r} is not JSON ({error})") from None


async def ask_many(
    name: Name,
    agents: Annotated[str, Parameter(help="Their ids, type/key, with commas; or --type.")] = "",
    body: Body = None,
    /,
    *,
    type: Annotated[str, Parameter(help="Ask all agents of this type instead.")] = "",
    quorum: Annotated[int | None, Parameter(help="Return when so many have answered; all if not given.")] = None,
    timeout: Timeout = 30.0,
    ttl: Ttl = None,
    deadline: Deadline = None,
    priority: Urgency = "normal",
    target: Target = Target(),  # noqa: B008
) -> int:
    """Ask many agents at once, and return when enough have answered; exit code 1 if they did not."""
    _check_timeout(timeout)
    if bool(agents) == bool(type):
        raise ConfigError("agents", "give either the agents' ids or --type")
    terms: dict[str, Any] = {"priority": priority, **until(ttl, deadline)}
    value = parse_json("body", body)
    async with connected(target) as client:
        if agents:
            ids = [check_agent(id) for id in agents.split(",")]
        else:
            ids = [view.id for view in await client.agents(type, limit=10_000)]
        answers: Answers[Any] = await client.ask_many(ids, name, value, quorum=quorum, timeout=timeout, **terms)
    as_json(
        {
            "answers": answers.answers,
            "errors": {id: str(error) for id, error in answers.errors.items()},
            "silent": answers.silent,
        }
    )
    return 0 if answers.reached else FAILED


async def list_tasks(
    *,
    state: Annotated[str, Parameter(help="Only queued, running, done, failed, cancelled or expired ones.")] = "",
    limit: Annotated[int, Parameter(help="At most so many.")] = 100,
    target: Target = Target(),  # noqa: B008
) -> None:
    """List tasks that wait, run, or ended and are kept, the newest first."""
    try:
        async with connected(target) as client:
            views = await client.tasks(state, limit)
    except WrongBody as error:
        raise ConfigError("state", str(error).removeprefix("state: ")) from None
    if target.json:
        as_json(views)
        return
    for view in views:
        console().print(_text(view), highlight=False)
    if not views:
        console().print("no tasks")


def _text(view: TaskView) -> str:
    step = f" step {view.step} of {view.steps}" if view.steps > 1 else ""
    at = f" at {view.agent}" if view.agent else ""
    return f"{view.id}  {view.type}.{view.name}{step}  {view.state}{at}" + (f": {view.reason}" if view.reason else "")


async def show_task(id: TaskId, /, *, target: Target = Target()) -> int:  # noqa: B008
    """Show what is recorded of one task; exit code 1 if there is none."""
    async with connected(target) as client:
        view = await client.show_task(id)
    if view is None:
        sys.stderr.write(f"swell: there is no task {id!r}: it never was, or is kept no longer\n")
        return FAILED
    if target.json:
        as_json(view)
    else:
        console().print(_text(view), highlight=False)
    return 0


async def follow(id: TaskId, /, *, timeout: Timeout = 30.0, target: Target = Target()) -> None:  # noqa: B008
    """Wait for a task; print the parts from now on, and the result."""
    _check_timeout(timeout)
    async with connected(target) as client:
        await _told(await client.task(id, timeout=timeout), target)


async def cancel_task(id: TaskId, /, *, target: Target = Target()) -> int:  # noqa: B008
    """End a task; exit code 1 if it had ended, or there is none."""
    async with connected(target) as client:
        ended = await client.cancel_task(id)
    if target.json:
        as_json({"id": id, "cancelled": ended})
    else:
        console().print(f"task {id} is cancelled" if ended else f"task {id} had ended")
    return 0 if ended else FAILED


def _check_timeout(timeout: float) -> None:
    if timeout <= 0:
        raise ConfigError("timeout", f"{timeout:g} must be more than 0 seconds")
