"""How many requests one address may make: a token bucket each, kept as the one number that it comes to.

The number is when the bucket would be full again (the generic cell rate algorithm, ITU-T I.371): each request moves it
on by 1/rate seconds, and a request that would move it further ahead than the burst is refused.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

#: An address may make so many seconds' worth of requests at once.
BURST_S = 1.0
#: Addresses remembered; beyond, the one that asked longest ago is forgotten.
MOST_ADDRESSES = 10_000
#: The part of an IPv6 address that one household has; the rest it may choose at will.
IPV6_PREFIX = 64


class RateLimit:
    """The buckets of all addresses.

    Args:
        rate: requests a second of one address, at least 1.
        clock: seconds that never go back.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 1 / rate
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def wait_s(self, address: str) -> float:
        """Count a request; returns 0 if it may pass, else how long its address should wait, seconds."""
        place = _place(address)
        now = self._clock()
        full_at = max(self._full_at.pop(place, now), now)
        wait_s = full_at + self._interval_s - now - BURST_S
        # One that is refused costs nothing: who asks on and on is let in again as soon as who waits.
        self._full_at[place] = full_at if wait_s > 0 else full_at + self._interval_s
        if len(self._full_at) > MOST_ADDRESSES:
            del self._full_at[next(iter(self._full_at))]
        return max(wait_s, 0.0)


def _place(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], IPV6_PREFIX), strict=False))
    except ValueError:
        return address
