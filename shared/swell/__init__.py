"""Swell coordinates large fleets of agents over Redis Streams.

The public names, imported late so that `import swell` costs nothing that is not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swell.agent import Agent, handler
    from swell.app import App
    from swell.client import AgentView, Client, Plan
    from swell.errors import (
        AgentExists,
        AppError,
        BarrierBroken,
        BrokerError,
        BrokerRefused,
        BrokerUnavailable,
        Busy,
        CallError,
        CallTimeout,
        Cancelled,
        ConfigError,
        Crash,
        Expired,
        FactConflict,
        GiveUp,
        HandlerFailed,
        InUse,
        LockHeld,
        LockLost,
        NotAppended,
        PlanAborted,
        Poison,
        StaleFence,
        StartFailed,
        SwellError,
        UnknownAgent,
        UnknownHandler,
        UnknownTask,
        UnknownType,
        WireError,
        WrongBody,
    )
    from swell.facts import Change, Fact, Held
    from swell.quorum import Answers
    from swell.submitting import Task
    from swell.task import Parts, TaskView
    from swell.tasks import Outcome
    from swell.where import Where, field
    from swell.wire import PlanProgress

__version__ = "0.1.0"

_HOMES = {
    "Agent": "agent",
    "handler": "agent",
    "App": "app",
    "AgentView": "client",
    "Answers": "quorum",
    "Outcome": "tasks",
    "Parts": "task",
    "Task": "submitting",
    "TaskView": "task",
    "Where": "where",
    "field": "where",
    "Client": "client",
    "Plan": "client",
    "PlanProgress": "wire",
    **dict.fromkeys(("Change", "Fact", "Held"), "facts"),
    **dict.fromkeys(
        (
            "AgentExists",
            "AppError",
            "BarrierBroken",
            "BrokerError",
            "BrokerRefused",
            "BrokerUnavailable",
            "Busy",
            "CallError",
            "CallTimeout",
            "Cancelled",
            "ConfigError",
            "Crash",
            "Expired",
            "FactConflict",
            "GiveUp",
            "HandlerFailed",
            "InUse",
            "LockHeld",
            "LockLost",
            "NotAppended",
            "PlanAborted",
            "Poison",
            "StaleFence",
            "StartFailed",
            "SwellError",
            "UnknownAgent",
            "UnknownHandler",
            "UnknownTask",
            "UnknownTask",
            "UnknownType",
            "WireError",
            "WrongBody",
        ),
        "errors",
    ),
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'swell' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"swell.{home}"), name)
    globals()[name] = value
    return value


__all__ = [
    "Agent",
    "AgentExists",
    "AgentView",
    "Answers",
    "App",
    "AppError",
    "BarrierBroken",
    "BrokerError",
    "BrokerRefused",
    "BrokerUnavailable",
    "Busy",
    "CallError",
    "CallTimeout",
    "Cancelled",
    "Change",
    "Client",
    "ConfigError",
    "Crash",
    "Expired",
    "Fact",
    "FactConflict",
    "GiveUp",
    "HandlerFailed",
    "Held",
    "InUse",
    "LockHeld",
    "LockLost",
    "NotAppended",
    "Outcome",
    "Parts",
    "Plan",
    "PlanAborted",
    "PlanProgress",
    "Poison",
    "StaleFence",
    "StartFailed",
    "SwellError",
    "Task",
    "TaskView",
    "UnknownAgent",
    "UnknownHandler",
    "UnknownTask",
    "UnknownType",
    "Where",
    "WireError",
    "WrongBody",
    "__version__",
    "field",
    "handler",
]
