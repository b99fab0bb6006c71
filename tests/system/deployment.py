"""A deployment by Compose, with a name and ports of its own, gone at the end."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: What a command of Compose may take, seconds; only a hang takes so long.
PATIENCE_S = 240.0
#: What healing may take, seconds: less than a load's patience, so that what fails says who did not heal.
HEALED_S = 100.0


def engine() -> str:
    """Why no container engine with Compose can be used; empty if one can."""
    if shutil.which("docker") is None:
        return "there is no `docker` here"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if ended.returncode:
            return f"`{' '.join(command)}` failed: {ended.stderr.strip()[-200:]}"
    return ""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Deployment:
    """One project.

    Args:
        settings: variables of compose.yaml.
    """

    def __init__(self, **settings: str) -> None:
        self.project = f"swell-test-{secrets.token_hex(4)}"
        self.manager = free_port()
        self.metrics = free_port()
        self.token = ""
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("SWELL_")} | {
            "COMPOSE_PROJECT_NAME": self.project,
            "SWELL_MANAGER_PORT": str(self.manager),
            "SWELL_METRICS_PORT": str(self.metrics),
            "SWELL_APPS": str(ROOT),
            "SWELL_APP": "tests.system.agents:app",
            "SWELL_LEASE_MS": "2000",
            **settings,
        }

    def now(self, *arguments: str, check: bool = True) -> str:
        """`docker compose ...`; returns what it prints."""
        command = ["docker", "compose", "--project-directory", str(ROOT), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, env=self._environ, timeout=PATIENCE_S)
        assert not check or not ended.returncode, f"{arguments}: {ended.stderr[-3000:]}"
        return ended.stdout

    async def do(self, *arguments: str) -> str:
        """The same, beside other work."""
        return await asyncio.to_thread(self.now, *arguments)

    async def docker(self, *arguments: str) -> str:
        """`docker ...`."""

        def run() -> str:
            ended = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=PATIENCE_S)
            assert not ended.returncode, f"{arguments}: {ended.stderr[-2000:]}"
            return ended.stdout

        return await asyncio.to_thread(run)

    async def containers(self, service: str) -> list[str]:
        """Ids of a service's containers."""
        return (await self.do("ps", "--quiet", service)).split()

    async def containers_all(self, services: Iterable[str]) -> list[str]:
        """Ids of these services' containers, also of those that have ended."""
        return (await self.do("ps", "--all", "--quiet", *services)).split()

    async def inspect(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's first container."""
        (container, *_) = await self.containers(service)
        found: dict[str, Any] = json.loads(await self.docker("inspect", container))[0]
        return found

    async def http(self, port: int, path: str, body: object = None, method: str = "") -> tuple[int, Any]:
        """Ask a published port; returns the status and the decoded body."""
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method or ("POST" if body else "GET"))
        request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")

        def ask() -> tuple[int, Any]:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return answer.status, _decoded(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, _decoded(error.read())

        return await asyncio.to_thread(ask)

    async def healthy(self) -> None:
        """Return when every container is healthy again."""
        until = time.monotonic() + HEALED_S
        while time.monotonic() < until:
            rows = [json.loads(line) for line in (await self.do("ps", "--format", "json")).splitlines()]
            if rows and all(row["Health"] == "healthy" for row in rows):
                return
            await asyncio.sleep(0.5)
        raise AssertionError(self.now("ps", "--all") + self.now("logs", "--tail", "30"))

    async def inside(self, *arguments: str, python: bool = False) -> str:
        """Run `swell ...` (or `python ...`) in a container of the network; returns what it prints."""
        entry = ["--entrypoint", "python"] if python else []
        return await self.do("--profile", "cli", "run", "--rm", "--no-deps", "-T", *entry, "cli", *arguments)

    @asynccontextmanager
    async def load(self, seconds: float, rate: int = 2000) -> AsyncIterator[dict[str, Any]]:
        """Load while the body runs, and `seconds` at least; what comes is its account, filled in at the end."""
        account: dict[str, Any] = {}
        command = [
            "docker",
            "compose",
            "--project-directory",
            str(ROOT),
            "--profile",
            "cli",
            "run",
            "--rm",
            "--no-deps",
        ]
        command += ["-T", "--entrypoint", "python", "cli", "-m", "tests.system.load", str(seconds), str(rate)]
        process = await asyncio.create_subprocess_exec(
            *command, env=self._environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = await process.stdout.readline()
                assert line == b"begun\n", (line, await process.stderr.read())
                yield account
                said = await process.stdout.readline()
                assert said, (await process.stderr.read()).decode()[-3000:]
                account.update(json.loads(said))
                await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()

    def logs(self, *services: str) -> list[dict[str, Any]]:
        """The log lines of our services, decoded; a line that is no JSON fails."""
        found = []
        for container in self.now("ps", "--all", "--quiet", *services).split():
            said = subprocess.run(["docker", "logs", container], capture_output=True, text=True, timeout=PATIENCE_S)
            found += [json.loads(line) for line in (said.stdout + said.stderr).splitlines() if line.strip()]
        return found


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


@asynccontextmanager
async def deployed(*up: str, **settings: str) -> AsyncIterator[Deployment]:
    """A deployment that is up and healthy; its containers, networks and volumes go with it."""
    one = Deployment(**settings)
    try:
        began = time.monotonic()
        await one.do("up", "--build", "--wait", *up)
        print(f"healthy after {time.monotonic() - began:.1f} s")
        one.token = (await one.do("exec", "-T", "manager", "cat", "/run/swell/token")).strip()
        yield one
    finally:
        # Containers of `run` outlive whoever started them; with one of them a network cannot go.
        left = (
            await one.docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={one.project}")
        ).split()
        if left:
            await one.docker("rm", "--force", *left)
        await asyncio.to_thread(one.now, "--profile", "cli", "down", "--volumes", "--timeout", "5", check=False)
