"""Handlers that are given by name: what they do is the same, and they are told which one was called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from swell.agent import Agent, handler
from swell.errors import AppError


def named_handlers(what: str, names: Sequence[str], call: Callable[[Any, str, Any], Awaitable[Any]]) -> dict[str, Any]:
    """A handler for each name, which passes the agent, the name and the body on.

    Raises:
        AppError: there is none, or a name cannot be a handler's.
    """
    if isinstance(names, str) or not names:
        raise AppError(f"{what}: handlers {names!r} must be a list of at least one name")
    for name in names:
        if not name.isidentifier() or name.startswith("_") or hasattr(Agent, name):
            raise AppError(f"{what}: {name!r} cannot be the name of a handler: agents have one, or it is no name")
    return {name: _handler(name, call) for name in names}


def _handler(name: str, call: Callable[[Any, str, Any], Awaitable[Any]]) -> Any:
    async def handle(self: Any, body: Any) -> Any:
        return await call(self, name, body)

    handle.__name__ = handle.__qualname__ = name
    return handler(handle)
