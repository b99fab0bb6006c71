"""The server-side functions: short Lua files, joined into one library and loaded as `swell_v1`."""

from __future__ import annotations

from importlib.resources import files

LIBRARY = "swell_v1"
PARTS = (
    "lease",
    "trial",
    "line",
    "append",
    "acquire",
    "release",
    "settle",
    "due",
    "events",
    "letters",
    "audit",
    "glance",
    "members",
    "reply",
    "facts",
    "holds",
    "barrier",
)


def library() -> str:
    """The source of the whole library, as FUNCTION LOAD takes it."""
    here = files(__name__)
    sources = [here.joinpath(part + ".lua").read_text() for part in PARTS]
    return f"#!lua name={LIBRARY}\n" + "\n".join(sources)
