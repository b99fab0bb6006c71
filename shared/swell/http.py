"""What the HTTP faces of all services share: health, metrics, OpenAPI, errors, and who may ask.

    connection --> gate (rate, Host, Origin, token) --> Litestar (limits, routes) --> handler
                     |                                     |                            |
                     +--- 429, 421, 403, 401               +--- 400, 404, 405, 413      +--- see swell.problem

    GET /livez         the loop turns; asks nobody
    GET /readyz        the service makes progress: 200 or 503, with the reason of each check
    GET /metrics       Prometheus
    GET /openapi.json  the description of the rest

A service binds its port first of all, so that a taken one is told before anything else is begun:

    listening = listen(settings.host, settings.port, DEFAULT_PORT)
    announce(listening, info)
    ... await serve(service_app(...), listening, stop)
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import msgspec
import uvicorn
from litestar import Litestar, MediaType, Response, get
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp, ControllerRouterHandler
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from swell import __version__
from swell.bus.broker import Broker
from swell.codec import MAX_BATCH_BYTES
from swell.config import Settings
from swell.errors import ConfigError, SwellError
from swell.gate import Gate
from swell.patience import MAX_HEAD_BYTES, PatientProtocol
from swell.problem import plugin
from swell.wire import WorkerInfo

log = logging.getLogger(__name__)

#: Answers whether something works, and the reason in words.
Check = Callable[[], Awaitable[tuple[bool, str]]]

#: A check that takes longer has failed, seconds.
CHECK_TIMEOUT_S = 2.0
#: Bytes that a request's body may have: a whole batch, and what JSON adds to it.
MAX_REQUEST_BYTES = MAX_BATCH_BYTES + 65_536
#: Ports tried, from the default one upwards, by a service of which several may run on one machine.
WALK_PORTS = 100
#: How long answers under way may take when the service stops, seconds, unless `serve` is told otherwise.
GRACE_S = 2.0


class Checked(msgspec.Struct):
    """One check's answer."""

    ok: bool
    reason: str


class Health(msgspec.Struct):
    """What `/livez` and `/readyz` answer: `ok` or `unavailable`, and why."""

    status: str
    service: str
    checks: dict[str, Checked] = {}


def service_app(
    name: str,
    settings: Settings,
    checks: Mapping[str, Check],
    routes: Sequence[ControllerRouterHandler],
    metrics_text: Callable[[], bytes],
) -> ASGIApp:
    """The HTTP face of a service, to be given to `serve`.

    Args:
        name: manager, worker or metrics.
        settings: host and token decide who may ask.
        checks: what `/readyz` runs, by name; all at once, each at most CHECK_TIMEOUT_S.
        routes: what the service answers besides.
        metrics_text: what `/metrics` answers.
    """

    @get("/livez", tags=["health"], summary="Is the process alive?")
    async def livez() -> Health:
        return Health("ok", name)

    @get("/readyz", tags=["health"], summary="Does the service make progress? 503 if not, with the reasons.")
    async def readyz() -> Response[Health]:
        answers = await asyncio.gather(*(_answer(check) for check in checks.values()))
        checked = dict(zip(checks, answers, strict=True))
        ready = all(one.ok for one in answers)
        return Response(
            Health("ok" if ready else "unavailable", name, checked),
            status_code=HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
        )

    @get("/metrics", tags=["metrics"], media_type=MediaType.TEXT, summary="Metrics in Prometheus's text format.")
    async def metrics() -> Response[bytes]:
        return Response(metrics_text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    app = Litestar(
        route_handlers=[livez, readyz, metrics, *routes],
        plugins=[plugin()],
        openapi_config=OpenAPIConfig(
            title=f"Swell {name}",
            version=__version__,
            path="/openapi.json",
            # The bare description: the pages that Litestar could show with it load scripts from elsewhere.
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"], media_type=MediaType.JSON)],
            components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
            security=[{"bearer": []}] if settings.token else None,
        ),
        request_max_body_size=MAX_REQUEST_BYTES,
        logging_config=None,
        debug=False,
    )
    return Gate(app, settings)


def broker_check(broker: Broker) -> Check:
    """A check that asks the server for a sign of life, and whether it keeps what it is given."""

    async def check() -> tuple[bool, str]:
        took_s = await broker.ping()
        trouble = await broker.trouble()
        return not trouble, trouble or f"answers in {took_s * 1000:.1f} ms"

    return check


async def _answer(check: Check) -> Checked:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return Checked(*await check())
    except SwellError as error:
        return Checked(False, str(error))
    except TimeoutError:
        return Checked(False, f"no answer within {CHECK_TIMEOUT_S:g} s")


@dataclass(frozen=True, slots=True)
class Listening:
    """A bound port.

    Attributes:
        socket: accepts connections.
        url: how others reach it.
    """

    socket: socket.socket
    url: str


def listen(host: str, port: int | None, default_port: int, *, walk: bool = False) -> Listening:
    """Bind a port.

    Args:
        host: an address of this machine.
        port: 0 takes a free one, None `default_port`.
        default_port: the service's own.
        walk: with `port` None, take the next free port upwards if the default one is taken.

    Raises:
        ConfigError: the port is taken or not allowed, or the address is not this machine's.
    """
    first = default_port if port is None else port
    tries = WALK_PORTS if walk and port is None else 1
    for candidate in range(first, min(first + tries, 65_536)):
        try:
            bound = socket.create_server(
                (host, candidate), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=256
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE and candidate + 1 < first + tries:
                continue
            raise _unbound(host, candidate, error) from None
        bound.setblocking(False)
        return Listening(bound, _url(host, bound.getsockname()[1]))
    raise ConfigError(
        "port", f"no port from {first} upwards is free on {host}; stop what holds them, or set SWELL_PORT"
    )


def _unbound(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            "port",
            f"port {port} of {host} is taken by another process: stop that one, "
            "or give another port (--port or SWELL_PORT; 0 takes a free one)",
        )
    if error.errno == errno.EACCES:
        return ConfigError("port", f"port {port} needs rights that this process lacks; take one above 1023")
    return ConfigError("host", f"cannot listen on {host} port {port}: {error.strerror or error}")


def _url(host: str, port: int) -> str:
    reachable = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def announce(listening: Listening, info: WorkerInfo) -> None:
    """Say where we listen: in the log, and in what the process says of itself beside its heartbeat."""
    info.http = listening.url
    log.info("listening", extra={"url": listening.url})


class _Server(uvicorn.Server):
    """uvicorn inside our loop: signals stay ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(app: ASGIApp, listening: Listening, stop: asyncio.Event, grace_s: float = GRACE_S) -> None:
    """Answer requests until `stop`; those under way then have `grace_s` seconds. Cancelled, it stops at once."""
    server = _Server(
        uvicorn.Config(
            app,
            http=PatientProtocol,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, math.ceil(grace_s)),
        )
    )

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    try:
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(end())
            await server.serve(sockets=[listening.socket])
            ending.cancel()
    finally:
        # If we were cancelled, uvicorn has closed nothing.
        for one in getattr(server, "servers", ()):
            one.close()
        listening.socket.close()
