"""Cron lines: `minute hour day month weekday`, in UTC, as cron(5) and POSIX have them.

    */15 8-17 * * mon-fri      every quarter of an hour from 08:00 to 17:45, Monday to Friday
    0 3 1 jan,jul *            at 03:00 on the first of January and of July

A field is `*`, a number, a name of a month or weekday, a range `a-b`, any of them with a step `/n`, or a list of those
with commas. Sunday is 0 or 7. If both day and weekday are restricted, either is enough.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from swell.errors import WrongBody

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
#: Name, least, most, names of the values from `least` on.
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 7, _WEEKDAYS),
)
#: The longest time between two 29ths of February is eight years; what does not come within that never comes.
_MOST_DAYS = 366 * 8 + 2


class Cron:
    """One line.

    Args:
        line: five fields.

    Raises:
        WrongBody: it is no cron line, or names a day that never comes; the text says which field is wrong.
    """

    __slots__ = ("_any_day", "_any_weekday", "_days", "_hours", "_minutes", "_months", "_weekdays", "line")

    def __init__(self, line: str) -> None:
        self.line = line
        fields = line.split()
        if len(fields) != len(_FIELDS):
            raise _wrong(line, "must have five fields: minute hour day month weekday")
        self._minutes, self._hours, self._days, self._months, weekdays = (
            _values(line, text, *field) for text, field in zip(fields, _FIELDS, strict=True)
        )
        self._weekdays = frozenset(day % 7 for day in weekdays)
        self._any_day = fields[2].startswith("*")
        self._any_weekday = fields[4].startswith("*")
        self.after(datetime(2000, 1, 1, tzinfo=UTC))

    def matches(self, moment: datetime) -> bool:
        """Whether the minute of a moment (in UTC) is one of the line's."""
        return moment.minute in self._minutes and moment.hour in self._hours and self._on(moment)

    def _on(self, moment: datetime) -> bool:
        """Whether the day of a moment is one of the line's."""
        if moment.month not in self._months:
            return False
        day, weekday = moment.day in self._days, moment.isoweekday() % 7 in self._weekdays
        # A field that begins with `*` restricts nothing by itself, `*/2` does with the other: so Vixie cron has it.
        return (day and weekday) if self._any_day or self._any_weekday else (day or weekday)

    def after(self, moment: datetime) -> datetime:
        """The first minute of the line that begins later than a moment (in UTC).

        Raises:
            WrongBody: none does within eight years.
        """
        first = moment.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        for days in range(_MOST_DAYS):
            day = first if not days else first.replace(hour=0, minute=0) + timedelta(days=days)
            if not self._on(day):
                continue
            for hour in sorted(self._hours):
                if hour < day.hour:
                    continue
                least = day.minute if hour == day.hour else 0
                minute = min((minute for minute in self._minutes if minute >= least), default=None)
                if minute is not None:
                    return day.replace(hour=hour, minute=minute)
        raise _wrong(self.line, "names a day that never comes")


def _values(line: str, text: str, name: str, least: int, most: int, names: tuple[str, ...]) -> frozenset[int]:
    """What one field allows."""
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        if slash and not (step.isdecimal() and int(step) > 0):
            raise _wrong(line, f"{name}: {part!r} needs a step of 1 or more behind '/'")
        if span == "*":
            first, last = least, most
        else:
            begin, dash, end = span.partition("-")
            first = _number(line, begin, name, least, most, names)
            last = _number(line, end, name, least, most, names) if dash else most if slash else first
        if first > last:
            raise _wrong(line, f"{name}: {part!r} ends before it begins")
        found.update(range(first, last + 1, int(step) if slash else 1))
    return frozenset(found)


def _number(line: str, text: str, name: str, least: int, most: int, names: tuple[str, ...]) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + least
    if text.isdecimal() and text.isascii() and least <= int(text) <= most:
        return int(text)
    words = f", or {names[0]} to {names[-1]}" if names else ""
    raise _wrong(line, f"{name}: {text!r} must be {least} to {most}{words}")


def _wrong(line: str, problem: str) -> WrongBody:
    return WrongBody("", f"cron: {line!r}: {problem}", field="cron")
