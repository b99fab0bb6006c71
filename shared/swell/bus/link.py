"""One connection to the server, for one purpose: a call at a time, in order, never reused after a lost reply.

redis.asyncio's connection does the talking. Its own retry, health checks, time-outs and maintenance notifications are
off: a write that may have happened is repeated only by those who know that repeating it is safe, and a connection
whose call was cancelled or timed out is closed, because a reply may still be on its way to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis import exceptions as server
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from swell.bus.tls import client_context, refusal
from swell.config import mask_url
from swell.errors import BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable, GroupGone

#: How long a call may take before its connection is given up, seconds; a blocking read adds its own wait.
CALL_TIMEOUT_S = 5.0

#: First words of error replies, and what each means here.
_UNAVAILABLE = frozenset({"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK", "BUSY"})
_UNAVAILABLE |= {"MISCONF", "NOREPLICAS"}
_GONE = frozenset({"NOGROUP", "UNBLOCKED"})
_AWAY = (
    server.BusyLoadingError,
    server.ReadOnlyError,
    server.ClusterDownError,
    server.MasterDownError,
    server.TryAgainError,
)


class FunctionsGone(BrokerUnavailable):
    """The server has no such function: it was restarted or flushed without them, or nobody has loaded them yet."""


class _Closed(BrokerUnavailable):
    """The connection was found closed, or broke."""


class Link:
    """A named connection.

    Args:
        url: redis://, rediss:// (see `swell.bus.tls`) or unix://.
        name: what CLIENT LIST shows.
        timeout_s: limit for one call.
        repeatable: whether its calls may be sent twice: then one that finds the connection closed since the last call,
            as all do that a restarted server left behind, is sent again through a new one.

    Raises:
        ConfigError: TLS cannot be set up as the URL says.
    """

    def __init__(self, url: str, name: str, timeout_s: float = CALL_TIMEOUT_S, *, repeatable: bool = False) -> None:
        options: dict[str, Any] = dict(parse_url(url))
        kind = options.pop("connection_class", Connection)
        secured = client_context(options) if kind is SSLConnection else None
        self._where = mask_url(url)
        self._timeout_s = timeout_s
        self._repeatable = repeatable
        self._connection: AbstractConnection = kind(
            **options
            | {
                "protocol": 2,
                "decode_responses": False,
                "socket_timeout": None,
                "socket_connect_timeout": min(timeout_s, 2.0),
                "retry": Retry(NoBackoff(), 0),
                "health_check_interval": 0,
                "client_name": name,
                "maint_notifications_config": MaintNotificationsConfig(enabled=False),
                # CLIENT SETINFO is unknown to Redis 7.0, and one right more elsewhere.
                "driver_info": None,
            }
        )
        if secured is not None:
            assert isinstance(self._connection, SSLConnection)
            self._connection.ssl_context.context = secured
        self._turn = asyncio.Lock()
        #: Grows with every new connection; who must greet the server compares it.
        self.generation = 0

    async def call(self, *arguments: Any, wait_s: float = 0.0) -> Any:
        """Send one command and read its reply.

        Args:
            arguments: the command, as str, bytes, int or float.
            wait_s: how long the server itself may wait (BLOCK), added to the limit.

        Raises:
            BrokerUnavailable, BrokerFull, BrokerRefused, GroupGone, FunctionsGone: see `translate`.
        """
        return (await self.calls([arguments], wait_s=wait_s))[0]

    async def calls(self, commands: Sequence[tuple[Any, ...]], wait_s: float = 0.0) -> list[Any]:
        """Send commands together and read their replies; the first error reply is raised after all were read."""
        async with self._turn:
            used = self._connection.is_connected
            try:
                return await self._exchange(commands, wait_s)
            except _Closed:
                if not (used and self._repeatable):
                    raise
            return await self._exchange(commands, wait_s)

    async def _exchange(self, commands: Sequence[tuple[Any, ...]], wait_s: float) -> list[Any]:
        connection = self._connection
        failure: server.ResponseError | None = None
        replies: list[Any] = []
        try:
            async with asyncio.timeout(self._timeout_s + wait_s):
                if not connection.is_connected:
                    await connection.connect()  # type: ignore[no-untyped-call]
                    self.generation += 1
                await connection.send_packed_command([hiredis.pack_command(c) for c in commands], check_health=False)
                for _ in commands:
                    try:
                        replies.append(await connection.read_response())
                    except server.ResponseError as error:
                        failure = failure or error
                        replies.append(None)
        except (server.RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            raise translate(error, self._where) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        if failure is not None:
            raise translate(failure, self._where) from failure
        return replies

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect()


def translate(error: Exception, where: str) -> BrokerError:
    """The one place where the server's and redis-py's errors become ours."""
    text = str(error)
    code = text.partition(" ")[0]
    if isinstance(error, server.AuthenticationError | server.NoPermissionError):
        return BrokerRefused(f"{where} refuses us: {text}")
    if isinstance(error, server.OutOfMemoryError) or code == "OOM":
        return BrokerFull(f"{where} is out of memory: {text}")
    if isinstance(error, _AWAY) or code in _UNAVAILABLE:
        return BrokerUnavailable(f"{where} is not ready: {text}")
    if isinstance(error, server.ResponseError):
        if code in _GONE:
            return GroupGone(text)
        if "Function not found" in text:
            return FunctionsGone(text)
        return BrokerRefused(f"{where} answered: {text}")
    if isinstance(error, TimeoutError | server.TimeoutError):
        return BrokerUnavailable(f"{where} did not answer in time")
    if untrusted := refusal(error):
        return BrokerRefused(f"{where}: {untrusted}")
    return _Closed(f"{where} cannot be reached: {text}")
