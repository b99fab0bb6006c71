"""Logs: JSON lines with documented fields, and nothing in them that moves a reader's cursor."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.config import Settings
from swell.logs import _QUIET as QUIET
from swell.logs import MAX_TEXT, configure, visible

log = logging.getLogger("swell.tests.logs")


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    """Whatever a test configures is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in QUIET}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def as_json(level: str = "info") -> None:
    configure(Settings(log_format="json", log_level=level), "worker", "worker-1")


def test_each_line_is_json_with_the_documented_fields(capsys: pytest.CaptureFixture[str]) -> None:
    as_json()
    log.info("shard acquired", extra={"shard": "0", "epoch": 7})
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "shard acquired",
        "level": "info",
        "logger": "swell.tests.logs",
        "service": "worker",
        "process": "worker-1",
        "shard": "0",
        "epoch": 7,
    }


def test_arguments_are_put_into_the_event(capsys: pytest.CaptureFixture[str]) -> None:
    as_json()
    log.warning("read waits: %s", "away")
    assert lines(capsys)[0]["event"] == "read waits: away"


def test_off_a_terminal_auto_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(), "worker", "worker-1")
    log.info("hello")
    assert lines(capsys)[0]["event"] == "hello"


def test_below_the_level_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    as_json("warning")
    log.info("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines(capsys)] == ["loud"]


def test_libraries_that_tell_of_every_request_are_heard_from_warnings_up(capsys: pytest.CaptureFixture[str]) -> None:
    as_json("debug")
    logging.getLogger("uvicorn.error").info("Started server process")
    assert lines(capsys) == []


def test_control_characters_are_neutralised_in_events_fields_and_tracebacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    as_json()
    try:
        raise ValueError("wipe \x1b[2J")
    except ValueError:
        log.exception("bad \x1b]0;title", extra={"agent": "a\x07\nb"})
    (line,) = lines(capsys)
    assert line["event"] == r"bad \x1b]0;title"
    assert line["agent"] == r"a\x07\x0ab"
    assert line["exception"].endswith("ValueError: wipe \\x1b[2J")
    assert "\n" in line["exception"]


def test_the_console_format_shows_tracebacks_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="console"), "worker", "worker-1")
    try:
        raise ValueError("wipe \x1b[2J")
    except ValueError:
        log.exception("failed", extra={"agent": "echo/1", "names": ["\x1b[2J"]})
    written = capsys.readouterr().err
    assert "agent=echo/1" in written
    assert "ValueError: wipe" in written
    assert "\x1b" not in written


def test_configuring_again_does_not_write_lines_twice(capsys: pytest.CaptureFixture[str]) -> None:
    as_json()
    as_json()
    log.info("once")
    assert len(lines(capsys)) == 1


@given(st.text())
def test_what_is_made_visible_holds_nothing_that_moves_the_cursor(text: str) -> None:
    shown = visible(text)
    assert all(ord(c) >= 0x20 and not 0x7F <= ord(c) <= 0x9F for c in shown)
    assert not set(shown) & {"\u202e", "\u2066", "\u2028", "\u200f"}


def test_printable_text_stays_as_it_is() -> None:
    assert visible("Grüße, 世界 🙂 100%") == "Grüße, 世界 🙂 100%"
    assert visible("a\x1b\u202eb") == r"a\x1b\u202eb"


def test_a_value_that_a_stranger_made_long_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    as_json()
    log.warning("dead letter: %s", "x" * 1_000_000, extra={"agent": "y" * 1_000_000})
    (line,) = lines(capsys)
    assert len(line["event"]) < MAX_TEXT + 100
    assert line["agent"].endswith("... (1000000 characters)")


def test_libraries_say_nothing_of_single_requests_whose_urls_may_hold_secrets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    as_json()
    for name in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(name).info("HTTP Request: POST http://host/x?key=secret")
        assert logging.getLogger(name).isEnabledFor(logging.WARNING)
    assert lines(capsys) == []
