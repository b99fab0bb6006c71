"""What a part found: figures, and the account of its messages."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from swell.bench.agents import Account
from swell.histogram import Histogram, upper_us


class Delivery(Struct, omit_defaults=False):
    """The account of a run: what was sent, beside what the agents themselves saw and what the ledger says.

    Attributes:
        sent: messages that `send` acknowledged.
        handled: messages that agents saw.
        settled: messages by which the ledgers' acked, dead and expired grew.
        duplicated, reordered: as the agents saw it.
        balanced: whether every ledger balances.
        dead: messages given up.
    """

    sent: int = 0
    handled: int = 0
    settled: int = 0
    duplicated: int = 0
    reordered: int = 0
    dead: int = 0
    balanced: bool = True

    @property
    def problems(self) -> list[str]:
        """What is wrong with it; a run with any has failed. Without a crash every message is handled exactly once."""
        found = []
        if self.handled - self.duplicated < self.sent:
            found.append(f"{self.sent - self.handled + self.duplicated:,} messages were not handled")
        if self.duplicated:
            found.append(f"{self.duplicated:,} were handled twice")
        if self.handled - self.duplicated > self.sent:
            found.append(f"{self.handled - self.duplicated - self.sent:,} more were handled than sent")
        if self.reordered:
            found.append(f"{self.reordered:,} were out of order")
        if self.settled < self.sent:
            found.append(f"{self.sent - self.settled:,} are not settled")
        if self.dead:
            found.append(f"{self.dead:,} are dead letters")
        if not self.balanced:
            found.append("a ledger does not balance")
        return found


class Quantiles(Struct):
    """Milliseconds that so many per cent do not exceed."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    count: int


class Result(Struct):
    """What one part found.

    Attributes:
        part: its name.
        figures: name -> value; the unit ends the name.
        delivery: the account.
        rows: one for each step of parts that have steps (rates, spans of time).
        buckets: latencies by bucket, for the histogram.
    """

    part: str
    figures: dict[str, float]
    delivery: Delivery
    rows: list[dict[str, Any]] = []
    buckets: dict[int, int] = {}

    @property
    def failed(self) -> bool:
        """Whether a message was lost, doubled, out of order or given up."""
        return bool(self.delivery.problems)


def quantiles(buckets: dict[int, int]) -> Quantiles:
    """The quantiles of latencies by bucket."""
    merged = Histogram()
    merged.merge(buckets, 0)
    p50, p95, p99, p999, most = (round(merged.quantile_us(q) / 1000, 3) for q in (0.5, 0.95, 0.99, 0.999, 1.0))
    return Quantiles(p50, p95, p99, p999, most, merged.count)


def delivery(sent: int, seen: Account) -> Delivery:
    """An account without what the ledgers say."""
    return Delivery(sent, seen.handled, 0, seen.duplicated, seen.reordered)


def bars(buckets: dict[int, int], width: int = 40) -> list[tuple[str, int, str]]:
    """A histogram for a terminal: (upper bound, count, bar), one row for each power of two that occurs."""
    rows: dict[int, int] = {}
    for bucket, count in buckets.items():
        power = max(upper_us(bucket), 1).bit_length()
        rows[power] = rows.get(power, 0) + count
    if not rows:
        return []
    most = max(rows.values())
    shown = range(min(rows), max(rows) + 1)
    return [(_bound(power), rows.get(power, 0), "#" * round(rows.get(power, 0) / most * width)) for power in shown]


def _bound(power: int) -> str:
    us = 1 << power
    return f"{us} us" if us < 1000 else f"{us / 1000:.3g} ms" if us < 1_000_000 else f"{us / 1e6:.3g} s"
