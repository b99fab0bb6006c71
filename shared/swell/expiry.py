"""Until when a message is worth handling: a span from the moment it is sent (`ttl`), or a moment (`deadline`)."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from swell.errors import WrongBody

#: The longest span that can be given, seconds: ten years. Longer ones are mistakes of unit.
MOST_S = 315_360_000.0


class Expiry(NamedTuple):
    """When messages expire: at `until_us` (microseconds since 1970), or `ttl_us` after they were sent if that is 0."""

    ttl_us: int
    until_us: int

    def at_us(self, sent_us: int) -> int:
        """When a message that was sent at `sent_us` expires; both in microseconds since 1970."""
        return self.until_us or sent_us + self.ttl_us


def expiry(ttl: float | None, deadline: datetime | None) -> Expiry | None:
    """What `ttl` (seconds) or `deadline` say; None if neither is given: then messages never expire.

    Raises:
        WrongBody: both are given, the span is not more than 0 s and at most ten years, or the moment has no time zone.
    """
    if ttl is None and deadline is None:
        return None
    if deadline is None:
        assert ttl is not None
        return Expiry(round(span_s("ttl", ttl) * 1e6) or 1, 0)
    if ttl is not None:
        raise WrongBody("", "give ttl or deadline, not both", field="ttl")
    return Expiry(0, max(1, moment_us("deadline", deadline)))


def span_s(field: str, seconds: float) -> float:
    """Return a span of time if it may be one.

    Raises:
        WrongBody: it is not more than 0 s and at most ten years.
    """
    if not (isinstance(seconds, int | float) and 0 < seconds <= MOST_S):
        what = f"{field}: {seconds!r:.80} must be more than 0 and at most {MOST_S:.0f} seconds"
        raise WrongBody("", what, field=field)
    return seconds


def moment_us(field: str, moment: datetime) -> int:
    """A moment in microseconds since 1970.

    Raises:
        WrongBody: it has no time zone.
    """
    if moment.tzinfo is None:
        raise WrongBody("", f"{field}: {moment.isoformat()} has no time zone; give one, for example UTC", field=field)
    return round(moment.timestamp() * 1e6)
