"""Latencies in log-linear buckets: cheap to record, exact to merge.

The layout is that of HdrHistogram (Gil Tene): each power of two is cut into SUB equal buckets, so a value is known to
1 / SUB of itself. Recording is a table look-up, less than half the cost of a binary search in the bounds:

    us < 65,536 (66 ms)         bucket = FINE[us]
    us < 67,108,864 (67 s)      bucket = COARSE[us >> 10]
    else                        computed

Merging adds counts bucket by bucket, so the quantiles of a fleet are those of all its messages, not an average.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

#: Buckets in each power of two: a quantile is at most 1/16, 6.25 %, above the true value.
SUB_BITS = 4
SUB = 1 << SUB_BITS
#: Values from here on share the last bucket: 2**32 us, 71 minutes.
_TOP_BITS = 32
BUCKETS = SUB * (_TOP_BITS - SUB_BITS + 1) + 1
_TABLE = 65_536


def bucket_of(us: int) -> int:
    """The bucket that a latency of `us` microseconds falls into, 0..BUCKETS-1; negative ones count as 0."""
    if us < SUB:
        return max(us, 0)
    exponent = us.bit_length() - 1 - SUB_BITS
    return min(SUB * (exponent + 1) + (us >> exponent) - SUB, BUCKETS - 1)


def upper_us(bucket: int) -> int:
    """The largest latency, microseconds, that falls into a bucket."""
    if bucket < SUB:
        return bucket
    exponent, place = divmod(bucket - SUB, SUB)
    return ((SUB + place + 1) << exponent) - 1


_FINE = array("H", (bucket_of(us) for us in range(_TABLE)))
_COARSE = array("H", (bucket_of(us << 10) for us in range(_TABLE)))


class Histogram:
    """Counts of latencies by bucket, and their sum.

    Attributes:
        counts: one count for each bucket.
        sum_us: sum of all latencies, microseconds.
    """

    __slots__ = ("counts", "sum_us")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.sum_us = 0

    def record(self, us: int, times: int = 1) -> None:
        """Count a latency of `us` microseconds `times` times. Clocks of two machines may make it negative: then 0."""
        if 0 <= us < _TABLE:
            self.counts[_FINE[us]] += times
            self.sum_us += us * times
        elif 0 <= us < 67_108_864:
            # Above 66 ms a bucket is at least 4 ms wide, so the 1 ms steps of the coarse table lose nothing.
            self.counts[_COARSE[us >> 10]] += times
            self.sum_us += us * times
        else:
            self.counts[bucket_of(us)] += times
            self.sum_us += max(us, 0) * times

    @property
    def count(self) -> int:
        """How many latencies were recorded."""
        return sum(self.counts)

    def merge(self, buckets: Mapping[int, int], sum_us: int) -> None:
        """Add what another histogram counted, given sparsely: bucket -> count. Unknown buckets are passed over."""
        counts = self.counts
        for bucket, count in buckets.items():
            if 0 <= bucket < BUCKETS:
                counts[bucket] += count
        self.sum_us += sum_us

    def clear(self) -> None:
        """Forget everything; the object stays the one that others record to."""
        self.counts[:] = [0] * BUCKETS
        self.sum_us = 0

    def sparse(self) -> dict[int, int]:
        """The counts that are not zero, by bucket."""
        return {bucket: count for bucket, count in enumerate(self.counts) if count}

    def quantile_us(self, q: float) -> float:
        """The latency that a share `q` (0..1) does not exceed, microseconds; 0 if nothing was recorded."""
        total = self.count
        if not total:
            return 0.0
        rank = max(1, min(total, -int(-q * total // 1)))
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                return float(upper_us(bucket))
        return float(upper_us(BUCKETS - 1))

    @property
    def mean_us(self) -> float:
        """The mean, microseconds; 0 if nothing was recorded."""
        total = self.count
        return self.sum_us / total if total else 0.0
