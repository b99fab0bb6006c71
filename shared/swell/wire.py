"""Everything that travels, as msgspec structs. No I/O here.

One entry of a shard's inbox has two fields: `n`, the number of messages, and `b`, one batch in MessagePack:

    batch    [schema, producer, seq, [series, ...]]                      1..256 messages, at most 1 MiB
    series   [to, name, count, [body, ...], sent_us, sender, reply_to, call, headers, expires_us]
                                                                         trailing defaults may be left out

A series is one message, or several that differ in nothing but their bodies; a message's place in its batch is counted
over all of them. A body is any MessagePack value; bodies are kept as raw bytes until the handler's own type decodes
them. What was sent together to one agent so costs a name, an address and a decoding once. An entry of a
reply stream has the field `b` alone: `[reply, ...]`, and a reply is `[call, status, body]`.

Messages whose name begins with `$` are the system's own: commands to the manager (on the shard `control`),
measurements (on the shard `metrics`), and the birth and end of agents (on the agents' shards). They obey
the same rules.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Raw, Struct, field

from swell.batch import Batch as Batch
from swell.batch import Message as Message
from swell.batch import Series as Series
from swell.batch import one_body as one_body
from swell.holds import Hold as Hold
from swell.topics import Subscription as Subscription

#: An encoded null: a body or arguments that were not given.
NIL = Raw(b"\xc0")

#: Version of everything in this file. A reader refuses a batch of another schema.
SCHEMA = 2

# Addresses that are no agent.
TO_CONTROL = "$control"
TO_METRICS = "$metrics"
TO_SHARD = "$shard"

# Names of the system's own messages.
SPAWN = "$spawn"
TERMINATE = "$terminate"
LIVE = "$live"
LATER = "$later"
EVENT = "$event"
SUBSCRIBE = "$subscribe"
MEMBER = "$member"
HOLD = "$hold"
TASK = "$task"
TASK_ENDED = "$task_ended"
TASK_WAIT = "$task_wait"
TASK_LISTEN = "$task_listen"
TASK_CANCEL = "$task_cancel"
RESIZE = "$resize"
UNSCHEDULE = "$unschedule"
PLAN = "$plan"
PLAN_CANCEL = "$cancel"
CANCEL = "$cancel"
TERMINATE_MANY = "$terminate_many"
MEASURE = "$measure"

#: The header of an event that went to one of a group: the group.
GROUP_HEADER = "swell-group"
#: The header of a message that was given an id, so that it can be cancelled.
ID_HEADER = "swell-id"
#: Of a message for later that has such an id: when it was taken, milliseconds since 1970.
TAKEN_HEADER = "swell-taken"
#: `reply_to` of a task's message: what comes of it goes to the task's home, which this header names (`swell.task`).
TO_TASK = "$task"
TASK_HEADER = "swell-task"

# Reply.status
DONE = 0
FAILED = 1
PROGRESS = 2

AgentState = Literal[
    "spawning",
    "ready",
    "working",
    "idle",
    "waiting",
    "passive",
    "draining",
    "paused",
    "quarantined",
    "terminating",
    "stopped",
    "failed",
]
PlanState = Literal["running", "done", "aborted", "cancelled"]
Pacing = Literal["barrier", "sliding"]
OnAbort = Literal["rollback", "keep"]


class Reply(Struct, array_like=True, gc=False):
    """An answer to one call: its result, its failure, or progress before either."""

    call: int
    status: int
    body: Raw


class Failure(Struct, omit_defaults=True):
    """Why a call failed; `kind` is a key of `swell.errors.FAILURES`."""

    kind: str
    message: str
    agent: str = ""
    detail: dict[str, Any] = {}


class Death(Struct, omit_defaults=True):
    """One time that a message was given up.

    Attributes:
        kind: a key of `swell.errors.FAILURES`.
        reason: for people.
        attempts: runs of the handler.
        at_ms: when, milliseconds since 1970.
    """

    kind: str
    reason: str
    attempts: int = 0
    at_ms: int = 0


class DeadLetter(Struct, omit_defaults=True):
    """A message that ended undeliverable, with all that is known of why.

    Attributes:
        id: `shard:entry:index` of its first death, the same through every replay.
        kind: a key of `swell.errors.FAILURES`, or `malformed` for bytes that are no batch (then `body` holds them).
        at_ms: when it was given up, milliseconds since 1970.
        history: its former deaths, oldest first; each was followed by a replay. The newest 20.
    """

    id: str
    to: str
    name: str
    body: Any
    kind: str
    reason: str
    attempts: int = 0
    traceback: str = ""
    sender: str = ""
    sent_us: int = 0
    at_ms: int = 0
    history: list[Death] = []


class AgentRecord(Struct, omit_defaults=True):
    """What a shard keeps of one agent. Written only by the shard's owner, under its epoch.

    Attributes:
        state: the last lasting state; `working` and `idle` are known to the agent's worker alone.
        generation: grows each time the id is spawned again.
        restarts: how often it was started anew, after takeovers and crashes.
        restarted_ms: when it was started anew after crashes, the newest, milliseconds since 1970.
        args: what `started` receives, still encoded; null if nothing was given.
        reason: why it failed, if it did.
        since_ms: when this state began, milliseconds since 1970.
        subscriptions: to topics, those that were made at run time.
        hold: why nothing of it is begun, if that is so for this agent alone.
    """

    type: str
    key: str
    state: AgentState
    plan: str = ""
    generation: int = 1
    restarts: int = 0
    args: Raw = NIL
    reason: str = ""
    since_ms: int = 0
    restarted_ms: tuple[int, ...] = ()
    subscriptions: list[Subscription] = []
    hold: Hold | None = None


class Snapshot(Struct, array_like=True):
    """An agent's kept state, recorded beside its `AgentRecord`, in the same call as the messages that made it.

    Attributes:
        epoch: of the owner that wrote it.
        at_ms: when, milliseconds since 1970.
        state: MessagePack of what the agent's class declares as `state`.
    """

    epoch: int
    at_ms: int
    state: bytes


class SpawnAgent(Struct, omit_defaults=True):
    """Body of `$spawn`, sent to the agent's shard. The same plan may repeat it: it starts the agent once."""

    plan: str
    args: Raw = NIL


class Spawned(Struct, omit_defaults=True):
    """The reply to `$spawn`: how long `started` took, and whether the agent was there already (same plan)."""

    start_s: float
    already: bool = False


class TerminateAgent(Struct, omit_defaults=True):
    """Body of `$terminate`, or null: end the agent, if it is (still) one of this plan's. "" is any plan."""

    plan: str = ""


class LiveQuery(Struct):
    """Body of `$live`, sent to a shard: which of these agents are doing what now?"""

    ids: list[str]


class Live(Struct, array_like=True):
    """What an agent's worker knows of it now; `reason`: why it is held, if it is."""

    state: AgentState
    queued: int
    handled: int
    reason: str = ""


class LiveAnswer(Struct):
    """The reply to `$live`: the worker, and what it knows of each agent it hosts."""

    worker: str
    agents: dict[str, Live]


class PlanRequest(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Body of `$plan`: spawn agents of one type in waves.

    Attributes:
        id: chosen by the asker; a repeated request with the same id joins the plan that is there.
        type: the agents' type.
        count: how many to start; their keys continue the type's count. Give `keys` instead to name them.
        wave_size: agents started together, at least 1.
        max_in_flight: agents that may be starting at one moment.
        pacing: `barrier` waits for a wave to end before the next; `sliding` keeps `max_in_flight` starting.
        pause_s: the wait between waves, seconds.
        abort_ratio: failed / started above which the plan aborts; 1.0 never aborts.
        on_abort: `rollback` terminates what the plan started, `keep` leaves it.
        timeout_s: limit for each agent's start, seconds.
        args: what each agent's `started` receives, encoded.
    """

    id: str
    type: str
    count: int = 0
    keys: list[str] = []
    wave_size: int = 100
    max_in_flight: int = 200
    pacing: Pacing = "sliding"
    pause_s: float = 0.0
    abort_ratio: float = 0.1
    on_abort: OnAbort = "rollback"
    timeout_s: float = 30.0
    args: Raw = NIL


class PlanProgress(Struct, omit_defaults=True):
    """Where a plan is. Sent to the asker while it runs, and answered by `/v1/plans/{id}`.

    Attributes:
        wave: waves begun so far, of `waves`.
        ready: agents that answered ready; `failed`: that did not start; `count`: all the plan wants.
        elapsed_s: since the plan began.
        ready_p95_s: 95th percentile of spawn-to-ready, seconds, over the agents ready so far.
        failures: a few agents that failed, with the reason.
        ending: whether agents are ended, not started (a type is resized): then `ready` counts those that have ended.
    """

    id: str
    type: str
    state: PlanState
    count: int
    wave: int = 0
    waves: int = 0
    ready: int = 0
    failed: int = 0
    in_flight: int = 0
    elapsed_s: float = 0.0
    ready_p95_s: float = 0.0
    reason: str = ""
    failures: dict[str, str] = {}
    ending: bool = False


class ResizeRequest(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Body of `$resize`: have so many agents of a type, in waves; the fields are a plan's."""

    type: str
    count: int
    wave_size: int = 100
    max_in_flight: int = 200
    pause_s: float = 0.0
    abort_ratio: float = 0.1
    timeout_s: float = 30.0
    args: Raw = NIL


class PlanRecord(Struct):
    """A plan as the shard `control` keeps it, so that another manager can go on with it.

    Attributes:
        request: what was asked, with `keys` filled in.
        progress: the last progress.
        waiting: who waits for it: (process, call) pairs.
        began_ms: when it was accepted, milliseconds since 1970.
    """

    request: PlanRequest
    progress: PlanProgress
    waiting: list[tuple[str, int]] = []
    began_ms: int = 0


class PlanCancel(Struct, omit_defaults=True):
    """Body of `$cancel`: end a running plan, as an abort would. Repeated under its key, it is answered the same."""

    id: str
    on_abort: OnAbort = "keep"
    key: str = ""


class TerminateMany(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Body of `$terminate_many`: end agents by id, by type, or of a plan; exactly one of the three is given.

    Repeated under its key it ends nobody again, and is answered the same.
    """

    ids: list[str] = []
    type: str = ""
    plan: str = ""
    key: str = ""


class Terminated(Struct):
    """The reply to `$terminate_many`: how many were ended, and those that could not be, with the reason."""

    terminated: int
    failed: dict[str, str] = {}


class WorkerInfo(Struct, omit_defaults=True):
    """What a process says of itself beside its heartbeat.

    Attributes:
        process: `role-host-pid-random`, unique for each start.
        http: where its health checks are, e.g. `http://127.0.0.1:8702`.
        types: the agent types of its app.
        started_ms: when it started, milliseconds since 1970.
        beats: its heartbeats so far: others see by them that it lives, whatever the clocks say.
        held: whether it takes no shards: it is paused.
    """

    process: str
    role: str
    pid: int
    host: str
    http: str = ""
    version: str = ""
    types: list[str] = []
    started_ms: int = 0
    beats: int = 0
    held: bool = False


class Measurements(Struct, omit_defaults=True):
    """Body of `$measure`: what one process counted since it last said so. Merging is addition.

    Attributes:
        process: who measured.
        counts: counter name -> agent type ("" for none) -> increase.
        latencies: latency name -> agent type -> bucket index -> increase (buckets: `swell.instruments`).
        sums: latency name -> agent type -> increase of the sum, microseconds.
        gauges: gauge name -> value now.
    """

    process: str
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    latencies: dict[str, dict[str, dict[int, int]]] = field(default_factory=dict)
    sums: dict[str, dict[str, int]] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
