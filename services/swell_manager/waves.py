"""Which agents of a plan start when, and when it must end: decisions only, no I/O and no clock of its own.

    agents   0 .......................................... count
             |-- wave 0 --|-- wave 1 --|-- wave 2 --| ...
                  ended        begun ^ next to begin

    barrier: a wave begins when every agent begun before it has ended
    sliding: agents begin as long as fewer than `max_in_flight` are starting, over the borders of waves
    pause:   waited at a border, from the end of the wave before (barrier) or the beginning of its last agent (sliding)

A plan must end (`aborting`) when more agents failed than `abort_ratio` of *all* allows, for then it is certain; and at
the end of any wave when more failed than that part of those that ended so far, if those are at least MIN_SAMPLE: a
plan that fails from its first wave on stops there, and a first agent that fails does not stop a thousand.
"""

from __future__ import annotations

import math

from msgspec import Struct

from swell.wire import PlanRequest

#: Agents that must have ended before the share of failures among them says anything of the others.
MIN_SAMPLE = 20


class Checkpoint(Struct, array_like=True):
    """Where another manager goes on: behind the first `waves` waves, every agent of which has ended.

    Attributes:
        waves: waves that have ended, counted from the first.
        ready: agents of those that became ready.
        failed: agents of those that did not.
    """

    waves: int = 0
    ready: int = 0
    failed: int = 0


class Waves:
    """The agents of one plan, by index 0..count-1, from their beginning to their end.

    Args:
        request: sizes, pacing and ratio; `count` and the bounds have been checked.
        since: where an earlier manager had arrived.

    Attributes:
        count: all agents of the plan.
        begun: agents begun; the next one's index.
        ready: agents that became ready.
        failed: agents that did not.
        wake_at: when a pause ends, so that `begin` is worth calling again, on the caller's clock; None if none runs.
        checkpoint: the leading waves that have ended.
    """

    def __init__(self, request: PlanRequest, since: Checkpoint | None = None) -> None:
        self._wave_size = request.wave_size
        self._max_in_flight = request.max_in_flight
        self._barrier = request.pacing == "barrier"
        self._pause_s = request.pause_s
        self._abort_ratio = request.abort_ratio
        self.count = request.count
        since = since or Checkpoint()
        self.checkpoint = Checkpoint(since.waves, since.ready, since.failed)
        self.begun = min(since.waves * self._wave_size, self.count)
        self.ready = since.ready
        self.failed = since.failed
        self.wake_at: float | None = None
        #: For each wave: agents not ended yet, and agents failed.
        self._left = [self._size(wave) for wave in range(self.waves)]
        self._failed = [0] * self.waves
        self._lost_at_border = False
        for wave in range(since.waves):
            self._left[wave] = 0

    @property
    def waves(self) -> int:
        """How many waves the plan has."""
        return math.ceil(self.count / self._wave_size)

    @property
    def wave(self) -> int:
        """Waves begun so far."""
        return math.ceil(self.begun / self._wave_size)

    @property
    def in_flight(self) -> int:
        """Agents begun and not ended."""
        return self.begun - self.ready - self.failed

    @property
    def over(self) -> bool:
        """Whether every agent has ended."""
        return self.ready + self.failed == self.count

    @property
    def aborting(self) -> bool:
        """Whether too many agents failed for the plan to go on."""
        return self._lost_at_border or self.failed / self.count > self._abort_ratio

    def begin(self, now: float) -> range:
        """The agents to begin now; they count as begun from here on. Empty if none may.

        Args:
            now: seconds on any clock that does not go back.
        """
        at = self.begun
        room = self._max_in_flight - self.in_flight
        if at == self.count or room <= 0 or self.aborting:
            return range(at, at)
        if at and at % self._wave_size == 0 and not self._may_pass_border(now):
            return range(at, at)
        end = min(at + room, self.count)
        if self._barrier or self._pause_s:
            end = min(end, (at // self._wave_size + 1) * self._wave_size)
        self.begun = end
        return range(at, end)

    def end(self, index: int, ready: bool) -> bool:
        """An agent that was begun is ready, or will not be.

        Returns:
            whether its wave ended with it.
        """
        wave = index // self._wave_size
        self._left[wave] -= 1
        if ready:
            self.ready += 1
        else:
            self.failed += 1
            self._failed[wave] += 1
        if self._left[wave]:
            return False
        self._advance_checkpoint()
        ended = self.ready + self.failed
        if ended >= MIN_SAMPLE and self.failed / ended > self._abort_ratio:
            self._lost_at_border = True
        return True

    def _size(self, wave: int) -> int:
        """Agents of a wave; the last one may be smaller."""
        return min(self._wave_size, self.count - wave * self._wave_size)

    def _may_pass_border(self, now: float) -> bool:
        """Whether the next wave may begin."""
        if self._barrier and self.in_flight:
            return False
        if not self._pause_s:
            return True
        if self.wake_at is None:
            self.wake_at = now + self._pause_s
        if now < self.wake_at:
            return False
        self.wake_at = None
        return True

    def _advance_checkpoint(self) -> None:
        """Take the waves into the checkpoint that have ended behind it without a gap."""
        at = self.checkpoint
        while at.waves < self.waves and not self._left[at.waves]:
            at.ready += self._size(at.waves) - self._failed[at.waves]
            at.failed += self._failed[at.waves]
            at.waves += 1
