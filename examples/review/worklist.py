"""What the coordinator knows of the work: a state machine without I/O, the same whatever comes twice or out of order.

    a folder   known -> listed
    a file     known -> in a unit, sent out -> surveyed -> reviewed for each role that owes a look -> finished
                              ^                   |
                              +--- overdue -------+--> unfinished, after `MAX_TRIES`

A file that can be parsed owes the looks of an analyst and of a tester; one that cannot, that of the researcher.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from examples.review.analysis import Entry, Survey
from examples.review.messages import Listing, Reviewed, Surveyed, Unit

#: A unit is closed when it holds so many files or bytes: small enough for a fraction of a second of work.
UNIT_FILES = 8
UNIT_BYTES = 65_536
#: A unit without result for so long is sent out again, file by file: its message may be a dead letter by now.
PATIENCE_S = 60.0
#: How often a file is sent out before it is given up.
MAX_TRIES = 3

_OWED = frozenset({"analyst", "tester"})
_OWED_IF_FAULTY = frozenset({"researcher"})


@dataclass(slots=True)
class _Flight:
    """A unit under way."""

    paths: list[str]
    since: float
    tries: int


@dataclass(slots=True)
class _File:
    survey: Survey | None = None
    seen: set[str] = field(default_factory=set)
    finished: bool = False

    def has_all(self) -> bool:
        return self.survey is not None and self.seen >= (_OWED if self.survey.fault is None else _OWED_IF_FAULTY)


class Worklist:
    """All folders and files of a run.

    Args:
        window: units under way at one moment, at least 1. It bounds how long a question waits behind other work.

    Attributes:
        unfinished: files given up.
        latencies_s: from sending a unit to each result for it, seconds.
        duplicates: reports that said nothing new, as they come after a crash.
        resent: units sent again because nothing came back.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._unlisted: set[str] = {""}
        self._folders: set[str] = {""}
        self._files: dict[str, _File] = {}
        self._waiting: deque[Entry] = deque()
        self._again: deque[tuple[str, int]] = deque()
        self._flights: dict[int, _Flight] = {}
        self._next_unit = 0
        self._finished = 0
        self.unfinished: set[str] = set()
        self.latencies_s: list[float] = []
        self.duplicates = 0
        self.resent = 0

    @property
    def folders(self) -> int:
        """Folders known."""
        return len(self._folders)

    @property
    def files(self) -> int:
        """Files known."""
        return len(self._files)

    @property
    def finished(self) -> int:
        """Files with all looks they owe."""
        return self._finished

    @property
    def units(self) -> int:
        """Units made so far."""
        return self._next_unit

    @property
    def complete(self) -> bool:
        """Whether nothing is left to wait for."""
        return not self._unlisted and self._finished + len(self.unfinished) >= len(self._files)

    def listed(self, listing: Listing) -> bool:
        """Take a folder's content; False if it was known."""
        if listing.folder not in self._unlisted:
            self.duplicates += 1
            return False
        self._unlisted.discard(listing.folder)
        for folder in listing.folders:
            if folder not in self._folders:
                self._folders.add(folder)
                self._unlisted.add(folder)
        for entry in listing.files:
            if entry.path not in self._files:
                self._files[entry.path] = _File()
                self._waiting.append(entry)
        return True

    def surveyed(self, body: Surveyed) -> list[Survey]:
        """Take what was read; returns what of it is new."""
        new: list[Survey] = []
        for survey in body.surveys:
            file = self._files.get(survey.path)
            if file is not None and file.survey is None:
                file.survey = survey
                new.append(survey)
                self._settle(survey.path, file)
        self.duplicates += not new
        self._close(body.unit)
        return new

    def reviewed(self, body: Reviewed, now: float) -> list[int]:
        """Take one role's results for a unit; returns the indices of those looks that are new."""
        flight = self._flights.get(body.unit)
        new: list[int] = []
        for index, look in enumerate(body.looks):
            file = self._files.get(look.path)
            if file is not None and body.role not in file.seen:
                file.seen.add(body.role)
                new.append(index)
                self._settle(look.path, file)
        if flight is not None and new:
            self.latencies_s.append(now - flight.since)
        self.duplicates += not new
        self._close(body.unit)
        return new

    def send_out(self, now: float) -> list[Unit]:
        """The units to send now: overdue ones again, then new ones, as far as the window allows."""
        self._recall(now)
        units: list[Unit] = []
        while len(self._flights) < self._window:
            paths, tries = self._next_paths()
            if not paths:
                break
            self._flights[self._next_unit] = _Flight(paths, now, tries)
            units.append(Unit(self._next_unit, paths))
            self._next_unit += 1
        return units

    def _next_paths(self) -> tuple[list[str], int]:
        while self._again:
            path, tries = self._again.popleft()
            if not self._files[path].finished:
                return [path], tries
        paths: list[str] = []
        size = 0
        while self._waiting and len(paths) < UNIT_FILES and (not paths or size + self._waiting[0].bytes <= UNIT_BYTES):
            entry = self._waiting.popleft()
            # After a restart of the coordinator, some of the files listed are finished already.
            if not self._files[entry.path].finished:
                paths.append(entry.path)
                size += entry.bytes
        return paths, 1

    def _recall(self, now: float) -> None:
        overdue = [number for number, flight in self._flights.items() if now - flight.since > PATIENCE_S]
        for number in overdue:
            flight = self._flights.pop(number)
            self.resent += 1
            for path in flight.paths:
                if self._files[path].finished:
                    continue
                if flight.tries >= MAX_TRIES:
                    self.unfinished.add(path)
                else:
                    self._again.append((path, flight.tries + 1))

    def _settle(self, path: str, file: _File) -> None:
        if not file.finished and file.has_all():
            file.finished = True
            self._finished += 1
            self.unfinished.discard(path)

    def _close(self, unit: int) -> None:
        flight = self._flights.get(unit)
        if flight is not None and all(self._files[path].finished for path in flight.paths):
            del self._flights[unit]
