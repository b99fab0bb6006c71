"""Who may ask: decided before anything of a request is looked at.

Without a token a service listens to this machine alone; then a web page from elsewhere must not reach it through the
user's browser, neither under a name that its owner points here (DNS rebinding: Host) nor directly (Origin). With a
token every method and path asks for it, except the two health checks, which probes must reach. No address may ask more
often than the settings say, token or not. Every answer forbids browsers to guess, keep, frame or run it.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import msgspec
from litestar.types import ASGIApp, Message, Receive, Send

from swell.config import LOOPBACK, Settings
from swell.problem import MEDIA_TYPE, Problem
from swell.rate import RateLimit

log = logging.getLogger(__name__)

#: Paths that need no token.
OPEN_PATHS = frozenset({"/livez", "/readyz"})
#: What every answer says unless it says otherwise itself.
_GUARDS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Gate:
    """Decides who may ask, before anything of the request is looked at.

    Args:
        app: gets the requests that may pass.
        settings: host, token and rate.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._expected = settings.token.encode()
        self._local = settings.host in LOOPBACK
        self._rate = RateLimit(settings.http_rate)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it (Litestar's own type of `scope` leaves lifespans out)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            send = _guarded(send)
            if log.isEnabledFor(logging.DEBUG):
                send = _logged(scope, send)
            wait_s = self._rate.wait_s((scope.get("client") or ("",))[0])
            if wait_s:
                detail = f"this address asks too often; try again in {wait_s:.3g} s"
                await _refuse(_problem(HTTPStatus.TOO_MANY_REQUESTS, detail), send)
                return
            refusal = self._refusal(scope["path"], dict(reversed(scope["headers"])))
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                await _refuse(refusal, send)

    def _refusal(self, path: str, headers: Mapping[bytes, bytes]) -> Problem | None:
        """Why a request may not pass; None if it may. Of repeated headers the first counts."""
        if self._local:
            host = headers.get(b"host", b"").decode("latin-1")
            origin = headers.get(b"origin", b"").decode("latin-1")
            if _place(f"//{host}")[0] not in LOOPBACK:
                return _problem(
                    HTTPStatus.MISDIRECTED_REQUEST, f"this service is {', '.join(sorted(LOOPBACK))}, not {host!r}"
                )
            if origin and _place(origin)[1] != host:
                return _problem(HTTPStatus.FORBIDDEN, f"web pages of {origin!r} may not ask this service")
        if self._expected and path not in OPEN_PATHS:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._expected):
                return _problem(
                    HTTPStatus.UNAUTHORIZED,
                    "send 'Authorization: Bearer <token>' with the token that the service was started with",
                )
        return None


def _place(url: str) -> tuple[str, str]:
    """The name and, as written, the host and port of a URL; both empty if it is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc
    except ValueError:
        return "", ""


def _problem(status: HTTPStatus, detail: str) -> Problem:
    return Problem(status.phrase, status, detail)


async def _refuse(problem: Problem, send: Send) -> None:
    body = msgspec.json.encode(problem)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b'Bearer realm="swell"'))
    elif problem.status == HTTPStatus.TOO_MANY_REQUESTS:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _guarded(send: Send) -> Send:
    """`send`, adding to each answer what it must forbid browsers."""

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message["headers"])
            said = {name.lower() for name, _ in headers}
            message["headers"] = [*headers, *(guard for guard in _GUARDS if guard[0] not in said)]
        await send(message)

    return guarded


def _logged(scope: Any, send: Send) -> Send:
    """`send`, telling the log of the answer's status; never of queries, headers or bodies."""
    began = time.perf_counter()

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            took_ms = round((time.perf_counter() - began) * 1000, 3)
            fields = {"method": scope["method"], "path": scope["path"], "status": message["status"], "ms": took_ms}
            log.debug("request", extra=fields)
        await send(message)

    return told
