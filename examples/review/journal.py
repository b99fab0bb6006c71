"""What the coordinator was told, line by line in a file, so that another worker can go on with its run.

An agent that is moved to another worker starts empty. Each report is written here before it counts as handled; the new
instance reads them all again. A report that is written and then delivered once more says nothing new to the worklist.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from examples.review.messages import CrewProgress, Fleet, Listing, Reviewed, Surveyed


class Began(msgspec.Struct, frozen=True, tag=True):
    """The run began, at that many seconds since 1970."""

    at_s: float


class Assembled(msgspec.Struct, frozen=True, tag=True):
    """All agents of the fleet are ready."""

    fleet: Fleet
    crews: list[CrewProgress]


class Heard(msgspec.Struct, frozen=True, tag=True):
    """A report came in; one of the three is given."""

    listing: Listing | None = None
    surveyed: Surveyed | None = None
    reviewed: Reviewed | None = None


Line = Began | Assembled | Heard


class Journal:
    """The file of one run. It is open only while a line is written: an agent that moves away is told nothing of it.

    Args:
        path: where it is; its folder is made.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)

    def add(self, line: Line) -> None:
        """Write a line; it survives the end of this process, though not of the machine.

        Raises:
            OSError: it cannot be written.
        """
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")

    def lines(self) -> Iterator[Line]:
        """All lines so far. A last line cut short by a crash was not acknowledged, so it is left out and cut off."""
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._path, whole)
        for line in data[:whole].splitlines():
            yield self._decoder.decode(line)

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)
