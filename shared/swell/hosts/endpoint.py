"""An HTTP endpoint as an agent: each message is a POST of JSON, what it answers is the result.

    2xx                           the result, decoded from JSON; nothing if it is empty
    408, 425, 429, 5xx, no answer tried again, as often as the type says; a Retry-After is waited for first
    anything else                 given up at once: the same request would be refused again

Redirects are not followed. httpx does the talking (`pip install swell[http]`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from swell.agent import Agent
from swell.codec import MAX_RESULT_BYTES
from swell.errors import AppError, GiveUp, SwellError
from swell.hosts.named import named_handlers

if TYPE_CHECKING:
    import httpx

#: What an endpoint may answer with, bytes of JSON.
MAX_ANSWER_BYTES = 2 * MAX_RESULT_BYTES
#: The longest wait that an endpoint can ask for, seconds.
MOST_WAIT_S = 60.0
#: How long connecting may take, seconds. The rest is the type's time limit's affair.
CONNECT_S = 10.0
#: Connections of one type in one worker.
CONNECTIONS = 100
_AGAIN = frozenset({408, 425, 429})
_LAST_EVENT = b"[DONE]"


class EndpointError(SwellError):
    """An endpoint could not be reached, or answered with an error that may pass."""


def http(
    url: str, *, handlers: Sequence[str] = ("post",), headers: Mapping[str, str] | None = None, token_env: str = ""
) -> type[Agent]:
    """Make an agent class of an HTTP endpoint.

    Args:
        url: what is posted to. The headers Swell-Agent and Swell-Handler say whose message it is.
        handlers: names that messages may call.
        headers: sent with each request; no secret, which belongs into the environment.
        token_env: the environment variable that holds a bearer token; empty for none. Agents do not start without it.

    Raises:
        AppError: the URL is none, a name cannot be a handler's, or httpx is not installed.
    """
    endpoint = Endpoint(url, headers or {}, token_env)
    members = named_handlers(f"endpoint {endpoint.name}", handlers, _HttpAgent._post)
    return type("HttpEndpoint", (_HttpAgent,), members | {"endpoint": endpoint, "__module__": __name__})


class Endpoint:
    """One URL, and the connections to it that the agents of a type share in one worker.

    Args:
        url: http:// or https://.
        headers: sent with each request.
        token_env: the environment variable of a bearer token, if any.

    Raises:
        AppError: the URL is none, or httpx is not installed.
    """

    def __init__(self, url: str, headers: Mapping[str, str], token_env: str) -> None:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise AppError(f"endpoint: that is no URL: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AppError(f"endpoint of {parts.hostname!r} must begin with http:// or https:// and a host")
        if parts.username or parts.password:
            raise AppError(
                f"endpoint of {parts.hostname!r}: put the secret into the environment, and name it: token_env"
            )
        try:
            import httpx
        except ImportError:
            raise AppError("agents that speak HTTP need httpx: pip install 'swell[http]'") from None
        self._httpx = httpx
        self._url = url
        #: How the endpoint is called in errors: without its query.
        self.name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._headers = dict(headers)
        self._token_env = token_env
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Raise an error that says so if the token is missing, or cannot be one."""
        if self._token_env and not self._token:
            raise SwellError(f"{self.name} needs a token: set {self._token_env} in the worker's environment")
        if not (self._token.isascii() and self._token.isprintable()):
            raise SwellError(f"{self.name}: the token in {self._token_env} must be printable ASCII characters alone")

    @property
    def _token(self) -> str:
        """Without the end of line that secrets in files often have."""
        return os.environ.get(self._token_env, "").strip() if self._token_env else ""

    async def post(self, body: Any, headers: Mapping[str, str]) -> Any:
        """Post JSON; returns what the answer decodes to, None if it is empty.

        Raises:
            EndpointError: trying again can help.
            GiveUp: it cannot.
        """
        async with self._answer(body, headers) as answer:
            text = await self._read(answer)
        if not text.strip():
            return None
        return self._decoded(answer, text)

    async def events(self, body: Any, headers: Mapping[str, str]) -> AsyncGenerator[Any, None]:
        """Post JSON; yields what each event of a `text/event-stream` decodes to, None for the `[DONE]` at its end.

        Raises:
            EndpointError, GiveUp: as for `post`.
        """
        async with self._answer(body, headers) as answer:
            if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                text = await self._read(answer)
                raise GiveUp(f"{self.name} answered {answer.status_code} with no event stream: {self._start(text)}")
            data: list[bytes] = []
            rest = b""
            async for piece in self._pieces(answer):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:"):
                        data.append(line[5:].strip())
                    elif not line.strip() and data:
                        text, data = b"\n".join(data), []
                        yield None if text == _LAST_EVENT else self._decoded(answer, text)

    @asynccontextmanager
    async def _answer(self, body: Any, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """Post JSON; gives an answer that is a success, with its body unread."""
        content = json.dumps(body, ensure_ascii=False).encode()
        httpx = self._httpx
        try:
            async with self._connections().stream("POST", self._url, content=content, headers=dict(headers)) as answer:
                status = answer.status_code
                if 200 <= status < 300:
                    yield answer
                    return
                text = await self._read(answer)
        except httpx.HTTPError as error:
            raise EndpointError(f"{self.name}: {type(error).__name__}: {self._shown(str(error))}") from None
        if status in _AGAIN or status >= 500:
            await asyncio.sleep(_wait_s(answer.headers.get("Retry-After", "")))
            raise EndpointError(f"{self.name} answered {status}: {self._start(text)}")
        raise GiveUp(f"{self.name} answered {status}: {self._start(text)}")

    def _decoded(self, answer: httpx.Response, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            status = answer.status_code
            raise GiveUp(f"{self.name} answered {status} with something that is no JSON: {self._start(text)}") from None

    async def _read(self, answer: httpx.Response) -> bytes:
        return b"".join([piece async for piece in self._pieces(answer)])

    async def _pieces(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        size = 0
        async for piece in answer.aiter_bytes():
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise GiveUp(f"{self.name} answered with more than {MAX_ANSWER_BYTES:,} bytes")
            yield piece

    def _start(self, text: bytes) -> str:
        """The beginning of an answer, for an error."""
        return repr(self._shown(text[: 200 + len(self._token)].decode(errors="replace"))[:200])

    def _shown(self, text: str) -> str:
        """Without the token: some servers repeat what they were sent."""
        return text.replace(self._token, "***") if self._token else text

    def _connections(self) -> httpx.AsyncClient:
        """The client of this loop: connections belong to a loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            headers = {"Content-Type": "application/json", "Accept": "application/json", **self._headers}
            if self._token:
                headers["Authorization"] = f"Bearer {self._token}"
            limits = self._httpx.Limits(max_connections=CONNECTIONS)
            timeout = self._httpx.Timeout(None, connect=CONNECT_S)
            self._client = self._httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout)
            self._loop = loop
        return self._client

    async def close(self) -> None:
        """Close the connections of this loop."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()


class _HttpAgent(Agent):
    """What all agents of endpoints have in common."""

    endpoint: Endpoint

    async def started(self) -> None:
        """See that the token is there.

        Raises:
            SwellError: it is not.
        """
        self.endpoint.check()

    @classmethod
    async def _swell_release(cls) -> None:
        await cls.endpoint.close()

    async def _post(self, name: str, body: Any) -> Any:
        return await self.endpoint.post(body, {"Swell-Agent": self.id, "Swell-Handler": name})


def _wait_s(retry_after: str) -> float:
    """Seconds that a Retry-After asks for, within bounds; a date counts as nothing said."""
    with contextlib.suppress(ValueError):
        return min(max(float(retry_after), 0.0), MOST_WAIT_S)
    return 0.0
