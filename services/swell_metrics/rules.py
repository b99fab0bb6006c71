"""What the rules of `swell.alerts` compare, computed from what was seen. Pure: no I/O, no clock."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from swell.alerts import WINDOW_S
from swell.bus.broker import Glance
from swell.histogram import Histogram
from swell_metrics.alerts import Found
from swell_metrics.collector import Totals

#: Messages that must have ended in the window before a share of them says anything.
LEAST_ENDED = 100
_LEDGER = ("refused", "stale", "rewinds", "lapsed")
_COUNTERS = ("handled", "dead", "expired", "redelivered", "sequence_gaps", "crashed", "failed")


@dataclass(slots=True)
class Sight:
    """Everything that was seen at one moment; None where the server did not tell.

    Attributes:
        at_s: monotonic seconds.
        shards: all shards of the namespace, `control` and `metrics` among them.
        alive: role -> processes alive.
        trouble: what is wrong with the server, empty if nothing is.
        memory: bytes that the server uses, and may use.
        unbalanced: shards whose audit failed.
        totals: what all processes counted.
    """

    at_s: float
    shards: list[Glance] = field(default_factory=list)
    alive: Mapping[str, int] | None = None
    trouble: str | None = None
    memory: tuple[int, int] | None = None
    unbalanced: list[str] | None = None
    totals: Totals = field(default_factory=Totals)


class History:
    """How much counters grew within the last WINDOW_S seconds.

    What happened before it began to look does not count.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Counter[str], list[int]]] = deque()

    def add(self, sight: Sight) -> None:
        """Remember what was counted at a moment."""
        counts: Counter[str] = Counter()
        for shard in sight.shards:
            counts.update({f"ledger.{name}": getattr(shard.ledger, name) for name in _LEDGER})
        counts.update({name: sight.totals.count(name) for name in _COUNTERS})
        self._seen.append((sight.at_s, counts, sight.totals.histogram("start").counts))
        while len(self._seen) > 1 and self._seen[1][0] <= sight.at_s - WINDOW_S:
            self._seen.popleft()

    def increase(self, *names: str) -> int:
        """By how much these counters grew together; a server that was flushed makes none of them shrink below 0."""
        first, last = self._seen[0][1], self._seen[-1][1]
        return sum(max(0, last[name] - first[name]) for name in names)

    def p95_ms(self) -> float | None:
        """P95 of the starts within the window, milliseconds; None if there was none."""
        window = Histogram()
        window.counts = [b - a for a, b in zip(self._seen[0][2], self._seen[-1][2], strict=True)]
        return window.quantile_us(0.95) / 1000 if sum(window.counts) > 0 else None


def values(sight: Sight, history: History, max_depth: int) -> dict[str, Found | None]:
    """The value of each rule; None if it cannot be told now.

    Args:
        sight: what was seen now, already added to the history.
        history: what was seen before.
        max_depth: the setting.
    """
    handled = history.increase("handled")
    failed = history.increase("dead", "expired")
    p95_ms = history.p95_ms()
    found: dict[str, Found | None] = {
        **_of_shards(sight.shards, max_depth),
        **_of_server(sight),
        "data_lost": Found(history.increase("ledger.rewinds", "sequence_gaps")),
        "takeovers": Found(history.increase("ledger.lapsed")),
        "redeliveries": Found(history.increase("redelivered")),
        "dead_letters": Found(history.increase("dead")),
        "stale_settles": Found(history.increase("ledger.stale")),
        "busy": Found(history.increase("ledger.refused")),
        "failure_ratio": Found(failed / (handled + failed) if handled + failed >= LEAST_ENDED else 0.0),
        "agents_crashed": Found(history.increase("crashed")),
        "agents_failed": Found(history.increase("failed")),
        "p95_ms": None if p95_ms is None else Found(p95_ms),
    }
    return found


def _of_shards(shards: list[Glance], max_depth: int) -> dict[str, Found | None]:
    if not shards:
        return {}
    unowned = [one.ledger.shard for one in shards if not one.owner or one.remaining_ms <= 0]
    oldest = max(shards, key=lambda one: one.oldest_ms or 0)
    fullest = max(shards, key=lambda one: one.ledger.depth)
    return {
        "shard_unowned": Found(len(unowned), _listed(unowned)),
        "oldest_message_s": Found((oldest.oldest_ms or 0) / 1000, f"shard {oldest.ledger.shard}"),
        "depth_ratio": Found(fullest.ledger.depth / max_depth, f"shard {fullest.ledger.shard}"),
    }


def _of_server(sight: Sight) -> dict[str, Found | None]:
    found: dict[str, Found | None] = {}
    if sight.alive is not None:
        missing = [role for role in ("manager", "worker") if not sight.alive.get(role)]
        found["role_missing"] = Found(len(missing), ", ".join(missing))
    if sight.trouble is not None:
        found["server"] = Found(float(bool(sight.trouble)), sight.trouble)
    if sight.memory is not None:
        used, limit = sight.memory
        found["memory_ratio"] = Found(used / limit if limit else 0.0, f"{used:,} of {limit:,} bytes" if limit else "")
    if sight.unbalanced is not None:
        found["ledger"] = Found(len(sight.unbalanced), _listed(sight.unbalanced))
    return found


def _listed(shards: list[str]) -> str:
    named = ", ".join(shards[:10]) + (", ..." if len(shards) > 10 else "")
    return f"shard {named}" if shards else ""
