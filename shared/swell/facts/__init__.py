"""What agents and clients share: facts under keys, locks, semaphores, barriers, and a leader for each name.

board     Facts: get, put, create, swap, delete, list, and everything below          client.facts, self.facts
watch     Watch: what is there, then every later change, for one key or a prefix
seats     locks, semaphores and leaders: a name with seats, a fair line, fencing tokens
claims    Claims: seats of owners that live elsewhere, as over HTTP               client.facts.claims
keeper    Keeper: renews what this process holds
barrier   Barrier: wait until so many have come
follower  Follower: reads changes and turns of the shards that anybody here waits for
values    keys, values and limits; what people see of facts
"""

from __future__ import annotations

from swell.bus.facts import Seat
from swell.facts.barrier import Attendance, Barrier
from swell.facts.board import Facts
from swell.facts.claims import Claims
from swell.facts.keeper import Held
from swell.facts.values import Change, Fact, LockHolder, LockView
from swell.facts.watch import Watch

__all__ = [
    "Attendance",
    "Barrier",
    "Change",
    "Claims",
    "Fact",
    "Facts",
    "Held",
    "LockHolder",
    "LockView",
    "Seat",
    "Watch",
]
