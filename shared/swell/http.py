r"""The HTTP that all services have: health, metrics, OpenAPI, problem documents, and who may ask.

    request --> Gate (host, token, size) --> Litestar --> handler
                                                 \--error--> problem document (RFC 9457)

`/livez` says that the loop turns and never asks the server; `/readyz` says that the service makes progress, with a
reason for each check. Both, and nothing else, are open to everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import uvicorn
from litestar import Litestar, MediaType, Request, Response, get
from litestar.config.cors import CORSConfig
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp, ControllerRouterHandler, Message, Receive, Scope, Send
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from swell import __version__
from swell import errors as ours
from swell.config import LOOPBACK, Settings
from swell.instruments import GAUGES

log = logging.getLogger(__name__)

#: A check of readiness: whether it passes, and why one thinks so.
Check = Callable[[], Awaitable[tuple[bool, str]]]

MAX_BODY_BYTES = 2 << 20
CHECK_TIMEOUT_S = 2.0
#: Ports tried behind the default one before giving up.
WALK_PORTS = 100
#: How long requests under way may take to end when the service stops, seconds.
GRACE_S = 3
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PROBLEM_TYPE = "application/problem+json"
OPEN_PATHS = frozenset({"/livez", "/readyz"})

#: The status that each of our errors becomes; the first that fits, the special before the general.
STATUS: tuple[tuple[type[ours.SwellError], int], ...] = (
    (ours.UnknownAgent, 404),
    (ours.UnknownType, 404),
    (ours.UnknownHandler, 404),
    (ours.AgentExists, 409),
    (ours.PlanAborted, 409),
    (ours.WrongBody, 422),
    (ours.WireError, 400),
    (ours.ConfigError, 400),
    (ours.AppError, 400),
    (ours.Busy, 429),
    (ours.CallTimeout, 504),
    (ours.CallError, 502),
    (ours.BrokerError, 503),
    (ours.SwellError, 500),
)


def problem(status: int, title: str, detail: str, **more: Any) -> bytes:
    """A problem document (RFC 9457), encoded."""
    return msgspec.json.encode({"type": "about:blank", "title": title, "status": status, "detail": detail, **more})


def _response(
    status: int, title: str, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> Response[Any]:
    content = problem(status, title, detail, **more)
    return Response(content, status_code=status, media_type=PROBLEM_TYPE, headers=headers or {})


def _on_swell_error(_: Request[Any, Any, Any], error: ours.SwellError) -> Response[Any]:
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    more: dict[str, Any] = {}
    headers: dict[str, str] = {}
    if isinstance(error, ours.CallError):
        more = {"agent": error.agent, **error.detail}
    if isinstance(error, ours.Busy):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return _response(status, type(error).__name__, str(error), headers, **more)


def _on_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    more: dict[str, Any] = {}
    detail = error.detail
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        more["errors"] = error.extra
        fields = [f"{one.get('key', '')}: {one.get('message', '')}".strip(": ") for one in error.extra]
        detail = "; ".join(fields) or detail
    title = type(error).__name__.removesuffix("Exception") or "Error"
    return _response(error.status_code, title, detail, error.headers or {}, **more)


def _on_bug(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.error("request failed", exc_info=error, extra={"path": request.url.path})
    return _response(500, "InternalError", "something went wrong here; the service's log has it", {})


def service_app(
    name: str,
    settings: Settings,
    checks: Mapping[str, Check],
    metrics: Callable[[], bytes],
    routes: Sequence[ControllerRouterHandler] = (),
    state: Mapping[str, Any] | None = None,
) -> ASGIApp:
    """The HTTP application of a service.

    Args:
        name: shown in the OpenAPI document.
        settings: host and token decide who may ask.
        checks: those of `/readyz`, by name.
        metrics: the text that `/metrics` answers.
        routes: the service's own.
        state: what handlers find in the application's state.
    """

    @get("/livez", sync_to_thread=False, summary="Does the process turn?")
    def livez() -> dict[str, str]:
        return {"status": "alive"}

    @get("/readyz", summary="Does the service make progress? Each check with its reason.")
    async def readyz() -> Response[dict[str, Any]]:
        answers = dict(zip(checks, await asyncio.gather(*map(_bounded, checks.values())), strict=True))
        ready = all(ok for ok, _ in answers.values())
        content = {
            "status": "ready" if ready else "not ready",
            "checks": {name: {"ok": ok, "reason": reason} for name, (ok, reason) in answers.items()},
        }
        return Response(content, status_code=200 if ready else 503)

    @get("/metrics", media_type=MediaType.TEXT, sync_to_thread=False, summary="Prometheus exposition.")
    def exposition() -> Response[bytes]:
        return Response(metrics(), media_type=METRICS_TYPE)

    @get("/openapi.json", include_in_schema=False, sync_to_thread=False)
    def openapi(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return request.app.openapi_schema.to_schema()

    app = Litestar(
        route_handlers=[livez, readyz, exposition, openapi, *routes],
        openapi_config=OpenAPIConfig(
            title=f"Swell {name}",
            version=__version__,
            path="/openapi",
            render_plugins=[JsonRenderPlugin()],
        ),
        exception_handlers={
            ours.SwellError: _on_swell_error,
            HTTPException: _on_http_error,
            Exception: _on_bug,
        },
        cors_config=CORSConfig(allow_origins=[]),
        logging_config=None,
        request_max_body_size=MAX_BODY_BYTES,
    )
    for key, value in (state or {}).items():
        setattr(app.state, key, value)
    return _gate(app, settings)


async def _bounded(check: Check) -> tuple[bool, str]:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await check()
    except TimeoutError:
        return False, f"no answer within {CHECK_TIMEOUT_S:g} s"
    except ours.SwellError as error:
        return False, str(error)


def _gate(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Let in only those who may ask: the right host name on loopback, the token where one is set."""
    local = settings.host in LOOPBACK
    token = settings.token.encode()

    async def gate(scope: Scope, receive: Receive, send: Send) -> None:
        if str(scope["type"]) != "http" or scope["path"] in OPEN_PATHS:
            await app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = _host_name(headers.get(b"host", b"").decode("latin-1"))
        if local and host not in LOOPBACK:
            # A page elsewhere whose name was made to point at 127.0.0.1 (DNS rebinding) comes with that name.
            await _refuse(send, 403, "Forbidden", f"host {host!r} is not this machine; ask 127.0.0.1")
        elif token and not hmac.compare_digest(headers.get(b"authorization", b""), b"Bearer " + token):
            await _refuse(send, 401, "Unauthorized", "send the header 'Authorization: Bearer <token>'")
        else:
            await app(scope, receive, send)

    return gate


def _host_name(header: str) -> str:
    """The host of a Host header, without its port; IPv6 addresses come in brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


async def _refuse(send: Send, status: int, title: str, detail: str) -> None:
    body = problem(status, title, detail)
    headers = [(b"content-type", PROBLEM_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


class ProcessMetrics(Collector):
    """What one process tells Prometheus of itself.

    Args:
        gauges: asked at each scrape; names are those of `instruments.GAUGES`.
    """

    def __init__(self, gauges: Callable[[], Mapping[str, float]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family for each gauge."""
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"swell_{name}", GAUGES[name][1], value)


def process_metrics(gauges: Callable[[], Mapping[str, float]]) -> Callable[[], bytes]:
    """The text for `/metrics` of a process: its gauges, and what Prometheus's own collectors know of it."""
    registry = CollectorRegistry()
    registry.register(ProcessMetrics(gauges))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return lambda: generate_latest(registry)


def bind(settings: Settings, default_port: int) -> socket.socket:
    """Take the port: the one that is set, or the default one, or the next that is free behind it.

    Raises:
        ConfigError: the port that is set is taken or not allowed, or the host is not ours.
    """
    wanted = [settings.port] if settings.port is not None else list(range(default_port, default_port + WALK_PORTS))
    failure: OSError | None = None
    for port in wanted:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, port))
            listener.listen(128)
        except OSError as error:
            listener.close()
            failure = error
            continue
        listener.setblocking(False)
        return listener
    assert failure is not None
    where = f"{settings.host}:{wanted[0]}"
    raise ours.ConfigError(
        "port", f"cannot listen on {where}: {failure.strerror}; set --port or SWELL_PORT to a free one, or 0 for any"
    )


def url_of(listener: socket.socket) -> str:
    """Where a bound socket is reached, as a URL."""
    host, port = listener.getsockname()[:2]
    host = "127.0.0.1" if host == "0.0.0.0" else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its grip on signals: the service has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: ASGIApp, listener: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop`, inside the service's own loop; requests under way get GRACE_S to end."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[listener]))
        stopping = group.create_task(stop.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        stopping.cancel()
