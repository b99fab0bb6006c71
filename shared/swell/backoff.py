"""How long to wait before the next try: exponential, capped, with full jitter.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 (the variant called full jitter, with a floor).
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `first_s` to `most_s`, each drawn between half of it and all of it.

    Attributes:
        first_s: the first wait, seconds.
        most_s: no wait is longer, seconds.
    """

    first_s: float = 0.05
    most_s: float = 2.0

    def wait_s(self, failures: int) -> float:
        """The wait after `failures` failures in a row (1 is the first)."""
        full = min(self.most_s, self.first_s * 2.0 ** min(max(failures - 1, 0), 30))
        return full * random.uniform(0.5, 1.0)


#: For a server that is away: quick at first, every two seconds in the end, never giving up.
RECONNECT = Backoff(0.05, 2.0)
#: For a handler that failed.
RETRY = Backoff(0.1, 5.0)
#: For an agent that crashed.
RESTART = Backoff(0.1, 5.0)
#: For a webhook that does not answer.
WEBHOOK = Backoff(0.5, 60.0)
#: For a shard that is full.
BUSY = Backoff(0.005, 0.1)
