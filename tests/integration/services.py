"""Real services as processes, for tests: started, asked whether they are ready, stopped, killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

#: How long a service may take to become ready, or to stop, before the test fails, seconds.
PATIENCE_S = 30.0


class Service:
    """One process of a service.

    Args:
        role: manager, worker or metrics.
        redis: URL of the server.
        directory: for its log.
        settings: more settings, without their `SWELL_`.
    """

    def __init__(self, role: str, redis: str, namespace: str, directory: Path, **settings: object) -> None:
        self.log = directory / f"{role}-{len(list(directory.glob('*.log')))}.log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")}
        environ |= {
            "SWELL_REDIS": redis,
            "SWELL_NAMESPACE": namespace,
            "SWELL_PORT": "0",
            "SWELL_LEASE_MS": "1000",
            "SWELL_APP": "tests.integration.fleet:app",
            "SWELL_TEST_ACCOUNT": str(directory),
            "SWELL_LOG_FORMAT": "json",
        }
        environ |= {f"SWELL_{name.upper()}": str(value) for name, value in settings.items()}
        with self.log.open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-m", f"swell_{role}"], stderr=log, env=environ)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def logged(self) -> list[dict[str, Any]]:
        """All log lines so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    async def url(self) -> str:
        """Where its HTTP is; it says so in its log when it listens."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = re.search(r'"url": "(http://[^"]+)"', self.log.read_text())
                if found:
                    return found.group(1)
                if self.process.poll() is not None:
                    raise AssertionError(f"exit code {self.process.returncode}:\n{self.log.read_text()}")
                await asyncio.sleep(0.02)

    async def ready(self) -> None:
        """Return when `/readyz` answers 200."""
        url = await self.url()
        async with asyncio.timeout(PATIENCE_S):
            while (await self.get(url + "/readyz"))[0] != 200:
                await asyncio.sleep(0.02)

    async def get(self, url: str) -> tuple[int, Any]:
        """Status and decoded body of a GET."""
        return await asyncio.to_thread(_get, url)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)


def _get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            body = response.read()
            status = response.status
    except urllib.error.HTTPError as error:
        with error:
            body, status = error.read(), error.code
    except urllib.error.URLError as error:
        return 0, str(error)
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body.decode()
