"""Logging: JSON lines off a terminal, coloured ones on one; the standard library's loggers, structlog's renderers.

Everywhere: `log = logging.getLogger(__name__)`, then `log.info("shard acquired", extra={"shard": name, "epoch": 7})`.

    timestamp  RFC 3339, UTC       level   debug, info, warning, error
    event      what happened       logger  which module says so
    service    manager, ...        process its unique name
    and what `extra` gives: shard, epoch, agent, entry, kind, plan, entries

A message's body is never logged. Control characters in any value are made visible, so that nothing that came in a
message can move the cursor of whoever reads the log.
"""

from __future__ import annotations

import logging
import sys
import unicodedata

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from swell.config import Settings

#: Loggers of libraries that speak of every request; they are heard from here up.
_QUIET = dict.fromkeys(("uvicorn.access", "uvicorn.error", "asyncio", "httpx", "httpcore"), logging.WARNING)
#: Characters of one value that are logged: the rest of a text that a stranger made long is left out.
MAX_TEXT = 16_384
_OF_MANY_LINES = frozenset({"exception", "stack_info"})
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def configure(settings: Settings, service: str, process: str) -> None:
    """Send all logging of this process to stderr, in the settings' format and from their level up."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())

    def name_service(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        event["process"] = process
        return event

    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        name_service,
        structlog.processors.format_exc_info,
        neutralise,
    ]
    last: list[Processor] = (
        [structlog.processors.JSONRenderer(sort_keys=False)]
        if as_json
        else [
            # Tracebacks come as text from `format_exc_info`, which JSON needs; the default would warn about that.
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, root.level))


def neutralise(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Make control characters in all texts visible, except line breaks in tracebacks."""
    for key, value in event.items():
        if isinstance(value, str):
            if len(value) > MAX_TEXT:
                value = f"{value[:MAX_TEXT]}... ({len(value)} characters)"
            event[key] = visible(value, keep="\n\t" if key in _OF_MANY_LINES else "")
    return event


def visible(text: str, keep: str = "") -> str:
    r"""`text` with what moves cursors or turns the reading direction written as \xNN or \uNNNN, but for `keep`.

    These are the characters of the Unicode categories control, format, surrogate, line and paragraph separator.
    """
    if text.isprintable():
        return text
    return "".join(_shown(c) if unicodedata.category(c) in _UNSEEN and c not in keep else c for c in text)


def _shown(c: str) -> str:
    code = ord(c)
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"
