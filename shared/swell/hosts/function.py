"""A function as an agent: an `async def` runs in the worker's loop, anything else in a thread or a process."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from swell.agent import Agent, emitting, handler
from swell.errors import AppError
from swell.hosts.processes import Processes
from swell.hosts.threads import Threads


def function(
    call: Callable[..., Any],
    *,
    name: str = "",
    run_in: Literal["", "loop", "thread", "process"] = "",
    workers: int | None = None,
) -> type[Agent]:
    """Make an agent class of a function.

    Args:
        call: takes the message's body, or nothing. Its annotation is what bodies are decoded as; what it returns is the
            result. What an asynchronous generator yields is emitted, as by `Agent.emit`.
        name: of the handler; empty for the function's own.
        run_in: `loop` for an `async def` function (which is the default for one), `thread` for one that blocks (the
            default for any other), `process` for one that computes. A function for processes must be one that a module
            has by its name: they import it.
        workers: threads (32 unless given) or processes (one for each core) for all agents of the type in one worker.

    Raises:
        AppError: the function does not fit where it shall run, or takes more than a body.
    """
    title = name or getattr(call, "__name__", "")
    generator = inspect.isasyncgenfunction(call)
    coroutine = generator or inspect.iscoroutinefunction(call)
    where = run_in or ("loop" if coroutine else "thread")
    if not callable(call) or not title.isidentifier() or title.startswith("_") or hasattr(Agent, title):
        raise AppError(
            f"{call!r} cannot be an agent: give a function, and a name for its handler if its own cannot be one"
        )
    if coroutine != (where == "loop") or inspect.isgeneratorfunction(call):
        wanted = "an 'async def'" if where == "loop" else "a plain 'def' without 'yield'"
        raise AppError(f"function {title!r} cannot run in {where!r}: that takes {wanted} function")
    if workers is not None and (workers < 1 or where == "loop"):
        raise AppError(f"function {title!r}: workers {workers} must be at least 1, and is for threads and processes")
    members = {"__doc__": call.__doc__, "__module__": __name__}
    if where == "loop":
        run = emitting(_of_agent(call)) if generator else _of_agent(call)
    else:
        shared = Threads(call, workers) if where == "thread" else Processes(call, workers)
        run = shared.handle
        members["_swell_release"] = _releasing(shared.close)
    return type(title, (Agent,), members | {title: _handler(call, title, run)})


def _handler(call: Callable[..., Any], name: str, run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A handler that looks like the function with `self` in front, so that its body is decoded as the function's is."""

    async def handle(self: Agent, *body: Any) -> Any:
        return await run(self, *body)

    parameters = list(inspect.signature(call).parameters.values())
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    handle.__signature__ = inspect.Signature([itself, *parameters])  # type: ignore[attr-defined]
    try:
        handle.__annotations__ = typing.get_type_hints(call)
    except (NameError, TypeError) as error:
        raise AppError(f"function {name!r}: its annotations cannot be resolved: {error}") from None
    handle.__name__ = name
    handle.__qualname__ = getattr(call, "__qualname__", name)
    return handler(handle)


def _of_agent(call: Callable[..., Any]) -> Callable[..., Any]:
    """As a method, which takes no notice of its agent."""
    return lambda _, *body: call(*body)


def _releasing(close: Callable[[], Awaitable[None]]) -> Any:
    """A class method as `Agent._swell_release`."""

    async def release(_: type[Agent]) -> None:
        await close()

    return classmethod(release)
