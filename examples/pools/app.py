"""The app: agents that compile rules before they can answer. Compiling is real work, and takes long."""

from __future__ import annotations

import asyncio
import re

from swell import Agent, App, handler

app = App("rules")

WORDS = 4_000


def compiled() -> re.Pattern[str]:
    """One pattern of many alternatives, not from the cache of `re`."""
    re.purge()
    return re.compile("|".join(f"(?:rule{number:04}[a-{'bcdef'[number % 5]}]+)" for number in range(WORDS)))


class Matcher(Agent):
    """Says whether a text breaks a rule."""

    async def prepare(self) -> None:
        """Compile; in a thread, so that other agents go on."""
        self.rules = await asyncio.to_thread(compiled)

    @handler
    async def breaks(self, body: str) -> bool:
        """Whether the text breaks a rule."""
        return self.rules.search(body) is not None


@app.agent("warm", warm=(4, 8))
class Warm(Matcher):
    """Has a pool."""


@app.agent("cold")
class Cold(Matcher):
    """Has none."""
