"""Having the server know our functions: loaded by whoever may, and said clearly where nobody here may."""

from __future__ import annotations

from redis.exceptions import NoPermissionError

from swell.bus.functions import LIBRARY, library
from swell.bus.link import FunctionsGone, Link
from swell.errors import BrokerRefused


async def load_functions(link: Link) -> bool:
    """Load our functions if the server does not have them, or has those of another release.

    Returns:
        whether they were loaded now.

    Raises:
        BrokerRefused: the server has no functions at all.
        FunctionsGone: ours are missing, and this user may not load them. It can help to try again later.
    """
    source = library()
    try:
        found = await link.call("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY, "WITHCODE")
    except BrokerRefused as error:
        if "unknown command" in str(error).lower():
            raise await _too_old(link) from None
        # We may not look at their code; that they can be called must do.
        try:
            await link.call("FCALL", f"{LIBRARY}_leases", 0)
        except FunctionsGone:
            raise _missing("are not on the server") from None
        return False
    if any(source.encode() in code for code in found):
        return False
    try:
        await link.call("FUNCTION", "LOAD", "REPLACE", source)
    except BrokerRefused as error:
        if not isinstance(error.__cause__, NoPermissionError):
            raise
        raise _missing("on the server are those of another release" if found else "are not on the server") from None
    return True


def _missing(what: str) -> FunctionsGone:
    return FunctionsGone(
        f"the functions {LIBRARY} {what}, and this user may not load them: "
        "run `swell doctor --load` as a user who may (see docs/security.md)"
    )


async def _too_old(link: Link) -> BrokerRefused:
    info = (await link.call("INFO", "server")).decode(errors="replace")
    version = next((line.partition(":")[2] for line in info.splitlines() if line.startswith("redis_version:")), "?")
    return BrokerRefused(
        f"the server is version {version.strip()} and has no functions: Redis 7.0 or Valkey 8 or newer is needed"
    )
