"""The app: five agent types, none of them written as a class."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from swell import App, hosts

HERE = Path(__file__).parent
#: Where `python -m examples.hosts.server` listens, unless the environment says otherwise.
BASE = os.environ.get("EXAMPLE_SERVER", "http://127.0.0.1:8900")

app = App("hosts")


@app.agent("greeter")
async def greet(name: str) -> str:
    """A coroutine function: runs in the worker's own loop."""
    return f"hello {name}"


@app.agent("digester", timeout=60)
def digest(path: str) -> str:
    """A function that blocks: runs in a thread."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def primes_below(limit: int) -> int:
    """A function that computes: runs in a process of its own, on a core of its own."""
    sieve = bytearray([1]) * max(limit, 2)
    sieve[0:2] = b"\0\0"
    for n in range(2, int(limit**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, len(sieve), n)))
    return sum(sieve[:limit])


app.agent("counter", timeout=60)(hosts.function(primes_below, run_in="process"))
app.agent("linter")(hosts.command(sys.executable, str(HERE / "lint.py"), handlers=["lint"]))
app.agent("scorer", max_attempts=5)(hosts.http(f"{BASE}/score", handlers=["score"]))
app.agent("writer", timeout=120)(hosts.chat(f"{BASE}/v1", "small", system="Be brief."))
