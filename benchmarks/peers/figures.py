"""The arithmetic of the comparison: quantiles, medians of rounds, ratios of neighbours. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

#: A system keeps a rate if it handled at least this part of it, from the first due time to the last message handled.
KEPT = 0.95


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least a part `q` of all values does not exceed (nearest rank); 0 if there are none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


@dataclass(frozen=True)
class AtRate:
    """One open-loop measure.

    Attributes:
        rate: messages a second that were due.
        achieved: messages a second that were handled.
        sent: messages.
        handled: messages.
        p50_ms: half of the messages began to be handled within this time after they were due.
        p95_ms: 95 of 100.
        p99_ms: 99 of 100.
    """

    rate: int
    achieved: float
    sent: int
    handled: int
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def fast_enough(self) -> bool:
        """Whether it could keep the rate; if not, its latency grows for as long as the rate lasts."""
        return self.achieved >= KEPT * self.rate

    @property
    def kept(self) -> bool:
        """Whether it kept the rate, and handled every message once."""
        return self.fast_enough and self.handled == self.sent


def at_rate(rate: int, due: int, sent: int, began_ns: int, last_ns: int, late_us: Sequence[int]) -> AtRate:
    """Make the figures of one open-loop measure.

    Args:
        rate: messages a second.
        due: messages that were due in all.
        sent: messages that could be sent before the sender gave up.
        began_ns: when the first was due.
        last_ns: when the last was handled.
        late_us: for each message handled the time since it was due, microseconds.
    """
    seconds = max(last_ns - began_ns, 1) / 1e9
    p50, p95, p99 = (quantile(late_us, q) / 1000 for q in (0.5, 0.95, 0.99))
    # The last message is due one interval before the time is over, so the time asked for is the least.
    achieved = len(late_us) / max(seconds, due / rate)
    return AtRate(rate, achieved, sent, len(late_us), p50, p95, p99)


@dataclass(frozen=True)
class Turn:
    """What one system did in one round.

    Attributes:
        sent: messages of the throughput measure.
        handled: of these.
        left: of these, how many the system still held when nothing moved any more.
        throughput: messages a second, first send to last acknowledgement.
        rates: the open-loop measures.
        asks: round trips a second; 0 if there is no such thing.
        ask_p50_ms: of a round trip.
        ask_p95_ms: of a round trip.
    """

    sent: int
    handled: int
    left: int
    throughput: float
    rates: list[AtRate] = field(default_factory=list)
    asks: float = 0.0
    ask_p50_ms: float = 0.0
    ask_p95_ms: float = 0.0

    @property
    def verified(self) -> bool:
        """Whether every message sent was handled, none twice, and nothing is left unacknowledged."""
        return self.sent == self.handled and not self.left


@dataclass(frozen=True)
class Summary:
    """The medians of all rounds of one system.

    Attributes:
        turns: what they are the medians of.
        throughput: messages a second.
        ratio: Swell's throughput in the turn beside it, divided by its own: above 1, Swell is faster.
        rates: one for each rate, of all rounds.
        asks: round trips a second; 0 if there is no such thing.
        ask_p50_ms: of a round trip.
        ask_p95_ms: of a round trip.
    """

    turns: int
    throughput: float
    ratio: float
    rates: list[AtRate]
    asks: float
    ask_p50_ms: float
    ask_p95_ms: float
    verified: bool


def summarise(turns: Sequence[Turn], beside: Sequence[Turn]) -> Summary:
    """The medians of `turns`, and of the ratios to the turns of Swell that ran `beside` each of them.

    Raises:
        ValueError: there are no turns, or not as many beside them.
    """
    if not turns:
        raise ValueError("there is nothing to summarise")
    ratios = [swell.throughput / own.throughput for own, swell in zip(turns, beside, strict=True)]
    return Summary(
        turns=len(turns),
        throughput=median(turn.throughput for turn in turns),
        ratio=median(ratios),
        rates=[_median_rate(measures) for measures in zip(*(turn.rates for turn in turns), strict=True)],
        asks=median(turn.asks for turn in turns),
        ask_p50_ms=median(turn.ask_p50_ms for turn in turns),
        ask_p95_ms=median(turn.ask_p95_ms for turn in turns),
        verified=all(turn.verified for turn in turns),
    )


def _median_rate(measures: Iterable[AtRate]) -> AtRate:
    same = list(measures)
    return AtRate(
        rate=same[0].rate,
        achieved=median(m.achieved for m in same),
        sent=sum(m.sent for m in same),
        handled=sum(m.handled for m in same),
        p50_ms=median(m.p50_ms for m in same),
        p95_ms=median(m.p95_ms for m in same),
        p99_ms=median(m.p99_ms for m in same),
    )
