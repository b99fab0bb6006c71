"""A function as an agent: an `async def` runs in the worker's loop, anything else in a thread or a process."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import typing
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

from swell.agent import Agent, emitting, handler
from swell.errors import AppError
from swell.hosts.processes import Processes

#: Threads for one agent type in one worker, unless it says otherwise.
THREADS = 32


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
    run: Callable[..., Awaitable[Any]]
    if where == "loop":
        run = emitting(_of_agent(call)) if generator else _of_agent(call)
    elif where == "thread":
        run = _in_threads(call, ThreadPoolExecutor(workers or THREADS, f"swell-{title}"))
    else:
        run = Processes(call, workers).handle
    return type(title, (Agent,), {title: _handler(call, title, run), "__doc__": call.__doc__, "__module__": __name__})


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


def _in_threads(call: Callable[..., Any], pool: ThreadPoolExecutor) -> Callable[..., Awaitable[Any]]:
    """Run in a thread, one message of an agent at a time.

    A thread cannot be cancelled. One whose time is over goes on by itself until the function returns, and what it
    returns is dropped; the agent's next run waits for it, within its own time limit.
    """

    async def run(agent: Any, *body: Any) -> Any:
        left: asyncio.Future[Any] | None = getattr(agent, "_left", None)
        if left is not None and not left.done():
            await asyncio.wait({left})
        context = contextvars.copy_context()
        running = asyncio.get_running_loop().run_in_executor(pool, partial(context.run, call, *body))
        agent._left = running
        try:
            return await asyncio.shield(running)
        finally:
            if running.done():
                agent._left = None
            else:
                running.add_done_callback(_dropped)

    return run


def _dropped(running: asyncio.Future[Any]) -> None:
    """Nobody waits for this any more: its error is not one unheard."""
    if not running.cancelled():
        running.exception()
