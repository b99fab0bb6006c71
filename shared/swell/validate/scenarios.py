"""The scenarios, as data. Which target applies to which is said here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Targets:
    """What must hold; None where it says nothing of a scenario.

    Attributes:
        spawn_p95_ms: P95 from the request of an agent until it is ready, at most.
        message_p95_ms: P95 from when a message was due to the start of its handler, at most.
        task_p95_ms: P95 of a task: asked, handled, answered, at most.
        operations_per_s: messages handled a second, at least.
        success: share of messages and tasks that were handled, at least.
        kib_per_agent: memory that an idle agent costs in its worker, at most.
    """

    spawn_p95_ms: float | None = None
    message_p95_ms: float | None = None
    task_p95_ms: float | None = None
    operations_per_s: float | None = None
    success: float | None = 0.999
    kib_per_agent: float | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario.

    Attributes:
        name: as on the command line.
        agents: spawned in waves; 0 if the scenario is about spawning itself.
        messages: sent to them in turn.
        tasks: asks with a result that is checked, `askers` at a time, beside the messages.
        rate: messages a second, each when it is due; 0 sends as fast as it goes.
        singles: agents spawned one after another.
        parallel: agents spawned by as many calls at once.
        targets: what must hold.
        asked_by: why these targets.
    """

    name: str
    agents: int = 0
    messages: int = 0
    tasks: int = 0
    rate: int = 10_000
    singles: int = 0
    parallel: int = 0
    targets: Targets = Targets()
    asked_by: str = ""

    @property
    def seconds(self) -> float:
        """How long its messages take at its rate, 0 at full speed."""
        return self.messages / self.rate if self.rate else 0.0

    def quick(self) -> Scenario:
        """The same, a tenth as large: to try things, not to validate."""
        return replace(
            self,
            agents=_tenth(self.agents),
            messages=self.rate * 2 if self.seconds > 10 else _tenth(self.messages),
            tasks=_tenth(self.tasks),
            singles=_tenth(self.singles),
            parallel=_tenth(self.parallel),
        )


def _tenth(count: int) -> int:
    return max(1, count // 10) if count else 0


_LOADED = Targets(spawn_p95_ms=100, message_p95_ms=10)
_MANY = Targets(message_p95_ms=10, kib_per_agent=8)

SCENARIOS: dict[str, Scenario] = {
    one.name: one
    for one in (
        Scenario(
            "baseline", 100, 500, 200, targets=_LOADED, asked_by="100 agents within 100 ms, messages within 10 ms"
        ),
        Scenario(
            "high-concurrency", 1_000, 5_000, 2_000, targets=_MANY, asked_by="latency and memory with many agents"
        ),
        Scenario("peak", 5_000, 25_000, 10_000, targets=_MANY, asked_by="latency and memory with many agents"),
        Scenario("ultra", 10_000, 50_000, 20_000, targets=_MANY, asked_by="latency and memory with many agents"),
        Scenario(
            "sustained",
            2_000,
            300_000,
            rate=5_000,
            targets=_MANY,
            asked_by="60 s at 5,000 messages a second: nothing grows, nothing gets slower",
        ),
        Scenario(
            "communication",
            500,
            50_000,
            1_000,
            rate=0,
            targets=Targets(operations_per_s=100_000),
            asked_by="as fast as it goes: here operations/s apply, and latency, which is the backlog's, does not",
        ),
        Scenario(
            "task-heavy",
            1_000,
            2_000,
            25_000,
            targets=Targets(task_p95_ms=10),
            asked_by="100 tasks under way all the time",
        ),
        Scenario("single-spawn", singles=100, targets=Targets(spawn_p95_ms=10), asked_by="one agent after another"),
        Scenario(
            "parallel-spawns",
            parallel=100,
            targets=Targets(spawn_p95_ms=100),
            asked_by="100 requests at the same moment",
        ),
        Scenario(
            "rate-10k",
            100,
            600_000,
            targets=Targets(message_p95_ms=10),
            asked_by="60 s at 10,000 messages a second",
        ),
        Scenario(
            "five-minutes",
            100,
            3_000_000,
            targets=Targets(message_p95_ms=10),
            asked_by="5 minutes at 10,000 messages a second with 100 agents",
        ),
    )
}
#: Run only when named, or with --all: it takes five minutes.
LONG = frozenset({"five-minutes"})
