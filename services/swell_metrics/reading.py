"""Reading reports: whatever would make totals shrink, labels strange or memory grow is refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from swell.codec import decode
from swell.errors import WireError
from swell.histogram import BUCKETS
from swell.instruments import COUNTERS, GAUGES, LATENCIES
from swell.keys import SEGMENT
from swell.wire import MEASURE, Measurements, Message


def read_report(message: Message) -> Measurements:
    """The measurements that a message carries.

    Names that this release does not know, because a newer one sent them, are left out and counted as `unknown_names`.

    Raises:
        WireError: it is no report, or one that cannot be true; the text says why.
    """
    if message.name != MEASURE:
        raise WireError(f"the metrics service takes {MEASURE!r}, not {message.name!r}")
    measured = decode(message.body, Measurements)
    if not SEGMENT.match(measured.process):
        raise WireError(f"measurements come from {measured.process!r}, which is no process")
    unknown = [name for name in measured.counts if name not in COUNTERS]
    unknown += [name for name in measured.latencies if name not in LATENCIES]
    for name in unknown:
        measured.counts.pop(name, None)
        measured.latencies.pop(name, None)
    measured.sums = {name: by_type for name, by_type in measured.sums.items() if name in measured.latencies}
    measured.gauges = {name: value for name, value in measured.gauges.items() if name in GAUGES}
    for name, by_type in (*measured.counts.items(), *measured.sums.items()):
        _check_types(name, by_type)
        _check_increases(name, by_type)
    for name, buckets_by_type in measured.latencies.items():
        _check_types(name, buckets_by_type)
        for buckets in buckets_by_type.values():
            _check_increases(name, buckets)
            if buckets and not 0 <= min(buckets) <= max(buckets) < BUCKETS:
                raise WireError(f"measurement {name!r} has a bucket that is not one of 0 to {BUCKETS - 1}")
    if unknown:
        by_none = measured.counts.setdefault("unknown_names", {})
        by_none[""] = by_none.get("", 0) + len(unknown)
    return measured


def _check_types(name: str, by_type: Mapping[str, object]) -> None:
    for type in by_type:
        if type and not SEGMENT.match(type):
            raise WireError(f"measurement {name!r} is of type {type!r}, which is no agent type")


def _check_increases(name: str, increases: Mapping[str, int] | Mapping[int, int]) -> None:
    if min(increases.values(), default=0) < 0:
        raise WireError(f"measurement {name!r} decreases")
