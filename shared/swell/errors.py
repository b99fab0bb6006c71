"""Every error that Swell raises, as one tree.

SwellError
├── ConfigError          a setting is wrong; names the setting
├── AppError             the app does not load, or declares something twice
├── WireError            bytes that are not a batch of this schema, or pass a limit
├── BrokerError
│   ├── BrokerUnavailable   the server does not answer, or not yet (LOADING, READONLY, reset, time-out)
│   │   └── NotAppended         ... until the sender's patience was over; nothing was sent to it
│   ├── BrokerFull          the server's memory limit is reached (OOM)
│   ├── BrokerRefused       the server refuses what we ask: version, rights, policy
│   └── GroupGone           our consumer group was destroyed: somebody else owns the shard
├── Crash                raised by a handler: what its agent stands on is broken, start the agent anew
├── GiveUp               raised by a handler: trying the message again cannot help
├── Busy                 a shard's depth limit is reached; carries the wait advised
├── LeaseLost            the shard's epoch moved on; whatever we held is void
├── SequenceGap          the server forgot appends that it had acknowledged
├── CallTimeout          no reply in time
├── CallError            the other side answered with a failure
│   ├── UnknownAgent        no such agent, or it is stopped or failed
│   ├── UnknownType         no agent type of that name in the app
│   ├── UnknownHandler      the agent has no handler of that name
│   ├── WrongBody           the body does not fit the handler's type; names the field
│   ├── HandlerFailed       the handler raised or timed out on its last attempt
│   ├── Poison              the processes that handled it died, one after another
│   ├── Expired             the message's time was over before its handler began
│   └── Cancelled           somebody cancelled the message
├── FactConflict         a fact has another version than expected
├── StaleFence           the lock that was to protect a write is no longer held
├── LockHeld             others held a lock, or all seats, for as long as was waited
├── LockLost             a lock, a seat or a term could not be renewed in time
├── InUse                a name is used with another limit, or for another number of parties
├── BarrierBroken        a party that waited at a barrier is no longer counted
└── PlanAborted          a plan ended before all its agents were ready
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swell.facts.values import LockHolder

#: Holders that an error names.
MOST_HOLDERS = 8


class SwellError(Exception):
    """The root of all errors of Swell."""


class ConfigError(SwellError):
    """A setting is missing, malformed or contradicts another; the text names it."""

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting
        self.problem = problem


class AppError(SwellError):
    """An app cannot be loaded, or declares an agent or handler that cannot work."""


class Crash(SwellError):
    """Raise it in a handler if what the agent stands on is broken: it is started anew, and the message tried again.

    Whatever else a handler raises is its message's affair, and the agent goes on as it is.
    """


class GiveUp(SwellError):
    """Raise it in a handler if trying the message again cannot help: it is a dead letter at once, with the text."""


class WireError(SwellError):
    """Bytes that are not a batch of a schema we read, or that pass a limit."""


class BrokerError(SwellError):
    """Something between us and the server went wrong."""


class BrokerUnavailable(BrokerError):
    """The server is away, loading, read-only or too slow; trying again later can help."""


class NotAppended(BrokerUnavailable):
    """The server was away for longer than the sender would wait; the message was not appended and never will be."""


class BrokerFull(BrokerError):
    """The server reached its memory limit (OOM): nothing was written; trying again later can help."""


class BrokerRefused(BrokerError):
    """The server refuses: an old version, a missing right, a wrong password. Trying again cannot help."""


class GroupGone(BrokerError):
    """Our consumer group no longer exists: another owner took the shard, or the server was flushed."""


class Busy(SwellError):
    """A shard holds as many unsettled messages as it may, or the server has no memory left; it was not appended.

    Attributes:
        shard: the full shard.
        depth: unsettled messages in it.
        retry_after_s: the wait advised, in seconds.
        sent: of many messages, how many were appended.
        unsent: of many messages, the places in the order given (from 0) of those that were not, and never will be.
    """

    def __init__(self, shard: str, depth: int, retry_after_s: float, reason: str = "") -> None:
        reason = reason or f"shard {shard} holds {depth} unsettled messages"
        super().__init__(f"{reason}; try again in {retry_after_s:.3g} s")
        self._reason = reason
        self.shard = shard
        self.depth = depth
        self.retry_after_s = retry_after_s
        self.sent = 0
        self.unsent: list[int] = []

    def of_many(self, sent: int, unsent: list[int]) -> Busy:
        """The same, said of many messages."""
        other = Busy(self.shard, self.depth, self.retry_after_s, self._reason)
        other.sent = sent
        other.unsent = unsent
        return other


class LeaseLost(SwellError):
    """The shard belongs to a newer epoch; whatever the old owner held is void."""

    def __init__(self, shard: str, epoch: int) -> None:
        super().__init__(f"shard {shard} is no longer ours (epoch {epoch})")
        self.shard = shard
        self.epoch = epoch


class SequenceGap(SwellError):
    """The server expects another sequence number: it lost appends that it had acknowledged.

    Attributes:
        shard: the shard concerned.
        last: the last number the server knows, 0 if none.
    """

    def __init__(self, shard: str, last: int) -> None:
        super().__init__(f"shard {shard} last knows our batch {last}: the server lost acknowledged data")
        self.shard = shard
        self.last = last


class CallTimeout(SwellError, TimeoutError):
    """No reply came in time; the message itself is durable and may still be handled."""

    def __init__(self, to: str, name: str, timeout_s: float) -> None:
        super().__init__(f"{to} did not answer {name!r} within {timeout_s:g} s")
        self.to = to
        self.name = name
        self.timeout_s = timeout_s


class CallError(SwellError):
    """The other side answered with a failure.

    Attributes:
        agent: the agent asked, `type/key`.
        detail: fields of the failure: `handler`, `field`, `attempts`, `traceback`, as far as they apply.
    """

    def __init__(self, agent: str, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.agent = agent
        self.detail = detail


class UnknownAgent(CallError):
    """No agent of that id is running: never spawned, stopped, or failed."""


class UnknownType(CallError):
    """The app that the workers run has no agent type of that name."""


class UnknownHandler(CallError):
    """The agent's type has no handler of that name; the text lists those it has."""


class WrongBody(CallError):
    """The body does not fit what the handler declares; the text and `detail['field']` name the field."""


class HandlerFailed(CallError):
    """The handler raised, or ran past its time limit, on its last attempt; `detail['traceback']` has it."""


class Poison(CallError):
    """Handling the message killed one process after another, also when nothing else of its batch was handled."""


class Expired(CallError):
    """The message's time (`ttl`, `deadline`) was over before its handler began, or began again; it never will."""


class Cancelled(CallError):
    """Somebody cancelled the message, before its handler began or while it ran."""


class AgentExists(CallError):
    """An agent of that id runs already and belongs to another plan; it was left as it is."""


class StartFailed(CallError):
    """The agent's `started` raised or ran past its time limit; `detail['traceback']` has it."""


class FactConflict(SwellError):
    """A fact was not changed, because it has another version than the caller expected.

    Attributes:
        key: which fact.
        version: the one it has, 0 if there is none.
    """

    def __init__(self, key: str, version: int) -> None:
        has = f"has version {version}" if version else "is not there"
        super().__init__(f"{key!r} {has}: get it again and decide anew")
        self.key = key
        self.version = version


class StaleFence(SwellError):
    """A fact was not changed: the lock that fences the change is no longer held under this token.

    Attributes:
        key: which fact.
        name: which lock.
        token: the fencing token that came too late.
    """

    def __init__(self, key: str, name: str, token: int) -> None:
        super().__init__(f"{key!r} was not changed: {name!r} is no longer held under token {token}")
        self.key = key
        self.name = name
        self.token = token


class LockLost(SwellError):
    """A lock, a semaphore's seat or a leader's term could not be renewed in time; what ran under it was cancelled.

    Attributes:
        name: which lock.
        token: its fencing token, which is void.
    """

    def __init__(self, name: str, token: int) -> None:
        super().__init__(f"{name!r} could not be renewed in time and may be another's (token {token})")
        self.name = name
        self.token = token


class LockHeld(SwellError):
    """Others held a lock, or all seats of a semaphore, for as long as the caller would wait.

    Attributes:
        kind: lock, semaphore or leader.
        name: which one.
        holders: who held it then, with their tokens and times (`swell.facts.LockHolder`); the first few.
    """

    def __init__(self, kind: str, name: str, holders: Sequence[LockHolder]) -> None:
        shown = [f"{one.owner} under token {one.token}" for one in holders[:MOST_HOLDERS]]
        if len(holders) > MOST_HOLDERS:
            shown.append(f"{len(holders) - MOST_HOLDERS} more")
        super().__init__(f"{kind} {name!r} was not free in time: held by {', '.join(shown) or 'nobody now'}")
        self.kind = kind
        self.name = name
        self.holders = list(holders[:MOST_HOLDERS])


class InUse(SwellError):
    """A name is used by others with another number; give the same one, or another name.

    Attributes:
        what: the kind of thing, and its name.
        number: the one that others use.
    """

    def __init__(self, what: str, meaning: str, number: int) -> None:
        super().__init__(f"{what} is used with {meaning} {number} by others: give the same, or take another name")
        self.what = what
        self.number = number


class BarrierBroken(SwellError):
    """A party that waited is no longer counted: it was silent for longer than its ttl, or the server lost its state.

    Attributes:
        name: which barrier.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"barrier {name!r} no longer counts this party: come again")
        self.name = name


class PlanAborted(SwellError):
    """A plan ended before all its agents were ready.

    Attributes:
        plan: the plan's id.
        reason: why it ended.
        ready: agents that were ready at that moment.
        failed: agents that did not start.
    """

    def __init__(self, plan: str, reason: str, ready: int = 0, failed: int = 0) -> None:
        super().__init__(f"plan {plan} aborted: {reason} ({ready} ready, {failed} failed)")
        self.plan = plan
        self.reason = reason
        self.ready = ready
        self.failed = failed


class UnknownTask(CallError):
    """There is no task of that id: it never was, or it ended long ago and was forgotten."""


#: Kinds of failure as they travel in a reply, and the error each becomes at the asker.
FAILURES: dict[str, type[CallError]] = {
    "unknown_agent": UnknownAgent,
    "unknown_type": UnknownType,
    "unknown_handler": UnknownHandler,
    "wrong_body": WrongBody,
    "handler_failed": HandlerFailed,
    "poison": Poison,
    "expired": Expired,
    "cancelled": Cancelled,
    "already_exists": AgentExists,
    "start_failed": StartFailed,
    "unknown_task": UnknownTask,
}
