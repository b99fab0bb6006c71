"""Asking a service whether it is ready."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

#: A service that is alive has answered by then, seconds.
ANSWER_TIMEOUT_S = 2.0
#: The wait between two questions, seconds.
AGAIN_S = 0.03
_MAX_ANSWER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/readyz` said: whether the service makes progress, and if not, why not."""

    ready: bool
    said: str


class _Check(msgspec.Struct):
    ok: bool
    reason: str


class _Health(msgspec.Struct):
    checks: dict[str, _Check]


async def readyz(http: str, token: str = "") -> Readiness:
    """Ask once.

    Args:
        http: the service's address, `http://127.0.0.1:8700`.
        token: the bearer token, if one is set.
    """
    parts = urlsplit(http)
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                request = (
                    f"GET /readyz?verbose HTTP/1.1\r\nHost: {parts.netloc}\r\n{authorization}Connection: close\r\n\r\n"
                )
                writer.write(request.encode())
                answer = b""
                while len(answer) < _MAX_ANSWER_BYTES and (piece := await reader.read(_MAX_ANSWER_BYTES)):
                    answer += piece
            finally:
                writer.close()
    except TimeoutError:
        return Readiness(False, "does not answer")
    except OSError as error:
        return Readiness(False, f"cannot be reached: {error.strerror or error}")
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    return Readiness(status == [b"200"], _reasons(body))


def _reasons(body: bytes) -> str:
    """What the checks that failed gave as their reasons; the whole answer if it is none of ours."""
    try:
        checks = msgspec.json.decode(body, type=_Health).checks
    except msgspec.MsgspecError:
        return body.decode(errors="replace").strip()
    return ", ".join(f"{name}: {check.reason}" for name, check in checks.items() if not check.ok)


async def until_ready(http: str, token: str = "") -> None:
    """Return when the service says that it is ready. It tells nobody by itself, so it is asked again and again."""
    while not (await readyz(http, token)).ready:  # noqa: ASYNC110
        await asyncio.sleep(AGAIN_S)
