"""What a user hands to the workers: an app, the set of agent types they may run."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

from swell.agent import Agent, Handler, decoder, handlers_of, parameter_type, subscriptions_of
from swell.agent_state import StateType, state_type
from swell.errors import AppError
from swell.holds import problem_with
from swell.hosts.function import function
from swell.keys import SEGMENT
from swell.topics import Subscription

#: Instances of one type that a worker may keep prepared.
MOST_WARM = 10_000
_A = TypeVar("_A", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class AgentType:
    """One declared type.

    Attributes:
        name: the part of the agents' ids before the slash.
        cls: the class that is instantiated.
        handlers: by name.
        max_attempts: runs of a handler for one message before it is a dead letter, at least 1.
        timeout: limit for one run of a handler, seconds; None for no limit.
        max_restarts: times within `restart_window` (seconds) that an agent which crashed is started again, at least 0.
        state: what its agents keep, None if they keep nothing.
        decode_args: turns what `spawn` gave as `args` into what `started` takes; None if it takes nothing.
        warm: the least and the most instances that each worker keeps prepared; (0, 0) for none.
        subscriptions: what its handlers declare that all agents of the type want to hear of.
        idle_after: how long an agent's mailbox is empty before it is let go, seconds; None for never.
        concurrency: agents of the type in a handler at one moment, in the whole fleet; None for any number.
        rate: messages to the type begun in a second, in the whole fleet; None for any number.
        quarantine_after: dead letters in a row after which an agent is set apart; None for never.
        prepares: whether its instances have a set-up of their own before they are started.
        calls: for each handler its function and the decoder of an array of its bodies (None if it takes
            none), for the hot path.
    """

    name: str
    cls: type[Agent]
    handlers: dict[str, Handler]
    max_attempts: int = 3
    timeout: float | None = 30.0
    max_restarts: int = 5
    restart_window: float = 60.0
    state: StateType | None = None
    decode_args: Callable[[Any], Any] | None = None
    warm: tuple[int, int] = (0, 0)
    subscriptions: tuple[Subscription, ...] = ()
    idle_after: float | None = None
    concurrency: int | None = None
    rate: float | None = None
    quarantine_after: int | None = None
    prepares: bool = field(init=False)
    calls: dict[str, tuple[Callable[..., Awaitable[Any]], Callable[[Any], Any] | None]] = field(init=False)

    def __post_init__(self) -> None:
        """Lay the handlers out for the hot path; those of agents that keep a state save it before they return."""
        if self.state is not None:
            for handler in self.handlers.values():
                handler.function = _saving(handler.function)
        calls = {h.name: (h.function, h.decode_all if h.takes_body else None) for h in self.handlers.values()}
        object.__setattr__(self, "calls", calls)
        object.__setattr__(self, "prepares", self.cls.prepare is not Agent.prepare)


@dataclass(slots=True)
class App:
    """A named set of agent types.

    Attributes:
        name: shown in logs.
        types: the types declared so far, by name.
    """

    name: str
    types: dict[str, AgentType] = field(default_factory=dict)

    def agent(
        self,
        name: str,
        *,
        max_attempts: int = 3,
        timeout: float | None = 30.0,
        max_restarts: int = 5,
        restart_window: float = 60.0,
        warm: int | tuple[int, int] = 0,
        idle_after: float | None = None,
        concurrency: int | None = None,
        rate: float | None = None,
        quarantine_after: int | None = None,
    ) -> Callable[[_A], _A]:
        """Declare a class, or a function, as agent type `name`.

        A function becomes an agent with one handler of its name; one that is no coroutine runs in a thread
        (`swell.hosts.function`).

        Args:
            name: 1 to 128 letters, digits, `.`, `_` or `-`.
            max_attempts: runs of a handler for one message before it is a dead letter.
            timeout: limit for one run of a handler, seconds; None for no limit.
            max_restarts: times within `restart_window` that an agent which crashed is started again; then it is failed.
            restart_window: seconds.
            warm: instances that each worker keeps prepared (`Agent.prepare`); or the least and the most, between which
                it follows how many were wanted lately.
            idle_after: an agent whose mailbox was empty for so long, seconds, is let go (`Agent.passivated`); the next
                message starts it again. None for never.
            concurrency: agents of the type that may be in a handler at one moment, in the whole fleet; see
                `Client.limit`.
            rate: messages to the type that may be begun in a second, in the whole fleet; likewise.
            quarantine_after: an agent that has so many dead letters in a row is set apart; see `Client.quarantine`.

        Raises:
            AppError: the name is malformed or taken, a limit is out of bounds, or a handler or the state cannot work.
        """
        if not SEGMENT.match(name):
            raise AppError(f"agent type {name!r} must be 1 to 128 letters, digits, '.', '_' or '-'")
        if name in self.types:
            raise AppError(f"agent type {name!r} is declared twice in app {self.name!r}")
        if max_attempts < 1:
            raise AppError(f"agent type {name!r}: max_attempts {max_attempts} must be at least 1")
        if timeout is not None and timeout <= 0:
            raise AppError(f"agent type {name!r}: timeout {timeout} must be positive, or None for no limit")
        if max_restarts < 0:
            raise AppError(f"agent type {name!r}: max_restarts {max_restarts} must be at least 0")
        if restart_window <= 0:
            raise AppError(f"agent type {name!r}: restart_window {restart_window} must be positive")
        least, most = (warm, warm) if isinstance(warm, int) else warm
        if not 0 <= least <= most <= MOST_WARM:
            raise AppError(f"agent type {name!r}: warm {warm} must be 0 to {MOST_WARM}, or (least, most) within that")
        for field_, problem in _problems(idle_after, concurrency, rate, quarantine_after):
            raise AppError(f"agent type {name!r}: {field_} {problem}")

        def declare(cls: _A) -> _A:
            kind: Any = function(cls) if inspect.isfunction(cls) else cls
            if not (isinstance(kind, type) and issubclass(kind, Agent)):
                raise AppError(f"agent type {name!r}: {cls!r} must be a subclass of swell.Agent, or a function")
            args_type = None if kind.started is Agent.started else parameter_type(kind.started)
            self.types[name] = AgentType(
                name=name,
                cls=kind,
                handlers=handlers_of(kind),
                max_attempts=max_attempts,
                timeout=timeout,
                max_restarts=max_restarts,
                restart_window=restart_window,
                state=state_type(kind),
                warm=(least, most),
                subscriptions=subscriptions_of(kind),
                idle_after=idle_after,
                concurrency=concurrency,
                rate=rate,
                quarantine_after=quarantine_after,
                decode_args=None if args_type is None else decoder(args_type, kind.started),
            )
            return cls

        return declare


def _problems(
    idle_after: float | None, concurrency: int | None, rate: float | None, quarantine_after: int | None
) -> Iterator[tuple[str, str]]:
    """Which of these cannot be, and why."""
    if idle_after is not None and not 0 < idle_after < math.inf:
        yield "idle_after", f"{idle_after!r} must be a positive number of seconds, or None for never"
    if concurrency == 0 or rate == 0:
        yield "concurrency" if concurrency == 0 else "rate", "0 would let nothing through: give None for no limit"
    limit, problem = problem_with(concurrency, rate)
    if limit:
        yield limit, problem
    if quarantine_after is not None and not (isinstance(quarantine_after, int) and quarantine_after >= 1):
        yield "quarantine_after", f"{quarantine_after!r} must be a whole number of at least 1, or None for never"


def _saving(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A handler that has the agent's state saved when it returned, before anything else can run."""

    async def handle(agent: Agent, *body: Any) -> Any:
        result = await function(agent, *body)
        agent._save()
        return result

    return handle


def load_app(path: str) -> App:
    """Import an app by `module:attribute`; the working directory is searched first, as `python -m` does.

    Raises:
        AppError: the module does not import, or has no such app; the text says which line fails.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise AppError(f"app {path!r} must be 'module:attribute', for example 'swell.echo:app'")
    try:
        module = import_here(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise AppError(
                f"app {path!r}: there is no module {error.name!r} here or among the installed packages"
            ) from None
        raise AppError(
            f"app {path!r} does not import: it needs the module {error.name!r}, which is not installed"
        ) from error
    except Exception as error:
        raise AppError(
            f"app {path!r} does not import: {type(error).__name__}: {_text(error)} ({_place(error)})"
        ) from error
    app = getattr(module, attribute, None)
    if not isinstance(app, App):
        having = [name for name, value in vars(module).items() if isinstance(value, App)]
        hint = f"; it has: {', '.join(having)}" if having else "; it has no swell.App at all"
        raise AppError(f"app {path!r}: module {module_name!r} has no App named {attribute!r}{hint}")
    if not app.types:
        raise AppError(f"app {path!r} declares no agent type")
    return app


def import_here(module: str) -> ModuleType:
    """Import a module by its name; the working directory is searched first, as `python -m` does."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    return importlib.import_module(module)


def _text(error: Exception) -> str:
    """What an error says, without the place that a `SyntaxError` repeats."""
    return error.msg if isinstance(error, SyntaxError) else str(error)


def _place(error: Exception) -> str:
    """The file and line that raised; for code that cannot be read, the line that is wrong, not the importer's own."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"
