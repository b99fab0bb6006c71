"""Cron lines: the next time is what a plain scan of all minutes finds; what cannot be is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swell.cron import Cron
from swell.errors import WrongBody

_WORDS = {"month": "jan feb mar apr may jun jul aug sep oct nov dec", "weekday": "sun mon tue wed thu fri sat"}
_BOUNDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 28), "month": (1, 12), "weekday": (0, 7)}


def plain_match(line: str, moment: datetime) -> bool:
    """What cron(5) says, word for word: each part of each field by itself."""
    fields = dict(zip(_BOUNDS, line.split(), strict=True))
    now = {
        "minute": moment.minute,
        "hour": moment.hour,
        "day": moment.day,
        "month": moment.month,
        "weekday": moment.isoweekday() % 7,
    }

    def number(name: str, text: str) -> int:
        words = _WORDS.get(name, "").split()
        return words.index(text) + _BOUNDS[name][0] if text in words else int(text)

    def part_allows(name: str, part: str, value: int) -> bool:
        span, _, step = part.partition("/")
        least, most = _BOUNDS[name][0], {"day": 31}.get(name, _BOUNDS[name][1])
        if span == "*":
            first, last = least, most
        elif "-" in span:
            first, last = (number(name, end) for end in span.split("-"))
        else:
            first = number(name, span)
            last = most if step else first
        return first <= value <= last and (value - first) % int(step or 1) == 0

    def allows(name: str) -> bool:
        values = {now[name], 7} if name == "weekday" and now[name] == 0 else {now[name]}
        return any(part_allows(name, part, value) for part in fields[name].split(",") for value in values)

    by_day, by_weekday = allows("day"), allows("weekday")
    starred = fields["day"].startswith("*") or fields["weekday"].startswith("*")
    on = (by_day and by_weekday) if starred else (by_day or by_weekday)
    return allows("minute") and allows("hour") and allows("month") and on


@st.composite
def parts(draw: st.DrawFn, name: str) -> str:
    least, most = _BOUNDS[name]
    first = draw(st.integers(least, most))
    last = draw(st.integers(first, most))
    words = _WORDS.get(name, "").split()
    word = words[first - least] if words and first - least < len(words) and draw(st.booleans()) else str(first)
    span = draw(st.sampled_from(["*", word, f"{first}-{last}"]))
    return span + draw(st.sampled_from(["", "", f"/{draw(st.integers(1, 20))}"]))


def fields(name: str) -> st.SearchStrategy[str]:
    return st.one_of(st.just("*"), st.lists(parts(name), min_size=1, max_size=3).map(",".join))


lines = st.tuples(*(fields(name) for name in _BOUNDS)).map(" ".join)
moments = st.datetimes(datetime(2024, 1, 1), datetime(2032, 12, 31)).map(lambda one: one.replace(tzinfo=UTC))


@settings(max_examples=150, deadline=None)
@given(lines, moments)
def test_the_next_time_is_the_first_minute_that_a_plain_scan_finds(line: str, moment: datetime) -> None:
    found = Cron(line).after(moment)
    assert plain_match(line, found)
    assert found > moment
    assert (found.second, found.microsecond) == (0, 0)
    step = moment.replace(second=0, microsecond=0)
    # A whole year of minutes would take too long: the first two days, and the last one before what was found.
    for begin in (step, found - timedelta(days=1)):
        at = max(begin, step)
        for _ in range(2 * 1440):
            at += timedelta(minutes=1)
            if at >= found:
                break
            assert not plain_match(line, at), at


@settings(max_examples=150, deadline=None)
@given(lines, moments)
def test_a_minute_matches_as_cron_says(line: str, moment: datetime) -> None:
    assert Cron(line).matches(moment) == plain_match(line, moment)


@pytest.mark.parametrize(
    ("line", "after", "expected"),
    [
        ("0 0 29 2 *", "2026-03-01T00:00", "2028-02-29T00:00"),
        ("0 0 29 2 *", "2096-02-29T00:00", "2104-02-29T00:00"),
        ("59 23 31 12 *", "2026-12-31T23:59", "2027-12-31T23:59"),
        ("*/15 8-17 * * mon-fri", "2026-11-20T17:45", "2026-11-23T08:00"),
        ("0 12 13 * fri", "2026-11-12T12:00", "2026-11-13T12:00"),
        ("0 12 1 * sun", "2026-11-24T12:00", "2026-11-29T12:00"),
        ("* * * * 7", "2026-11-24T12:00", "2026-11-29T00:00"),
    ],
)
def test_times_that_are_easily_missed(line: str, after: str, expected: str) -> None:
    moment = datetime.fromisoformat(after).replace(tzinfo=UTC)
    assert Cron(line).after(moment) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "must have five fields"),
        ("* * * * * *", "must have five fields"),
        ("60 * * * *", "minute: '60' must be 0 to 59"),
        ("* 24 * * *", "hour: '24' must be 0 to 23"),
        ("* * 0 * *", "day: '0' must be 1 to 31"),
        ("* * * foo *", "month: 'foo' must be 1 to 12, or jan to dec"),
        ("* * * * 8", "weekday: '8' must be 0 to 7, or sun to sat"),
        ("*/0 * * * *", "needs a step of 1 or more"),
        ("5-2 * * * *", "ends before it begins"),
        ("1,,2 * * * *", "minute: '' must be"),
        ("0 0 31 2 *", "a day that never comes"),
        ("٣ * * * *", "must be 0 to 59"),
    ],
)
def test_what_is_no_cron_line_is_refused_with_the_field_named(line: str, problem: str) -> None:
    with pytest.raises(WrongBody, match=problem) as raised:
        Cron(line)
    assert raised.value.detail["field"] == "cron"
