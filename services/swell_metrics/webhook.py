"""Telling alerts to a URL: each change at least once, in order, without ever holding up the service.

What was not told yet is kept with the alerts, so a webhook that is away for a while, or the end of this process, loses
none of it (up to MOST_UNTOLD changes). A receiver may be told a change twice, if its answer or our note of it got lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import msgspec

from swell.alerts import Alert
from swell.backoff import WEBHOOK
from swell.config import mask_webhook
from swell.instruments import Recorder

log = logging.getLogger(__name__)

#: For one request, from the first byte to the last, however slowly the receiver answers.
TIMEOUT_S = 10.0
#: Changes in one request.
MOST_AT_ONCE = 100


class Webhook:
    """Posts changes of alerts.

    Args:
        url: where to; http or https.
        secret: sent as `Authorization: Bearer`, if there is one.
        namespace: said in each request.
        untold: the changes not told yet, oldest first.
        told: called with those that have been told.
        recorder: counts failures.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        namespace: str,
        untold: Callable[[], Sequence[Alert]],
        told: Callable[[Sequence[Alert]], None],
        recorder: Recorder,
    ) -> None:
        self._url = url
        self._secret = secret
        self._namespace = namespace
        self._untold = untold
        self._told = told
        self._recorder = recorder
        self.news = asyncio.Event()

    async def run(self) -> None:
        """Tell what there is to tell, until cancelled."""
        failures = 0
        while True:
            changes = list(self._untold()[:MOST_AT_ONCE])
            if not changes:
                self.news.clear()
                await self.news.wait()
                continue
            problem = await self._tell(changes)
            if not problem:
                failures = 0
                self._told(changes)
                continue
            failures += 1
            self._recorder.count("webhook_failures")
            if failures & (failures - 1) == 0:  # The first time, then ever more rarely.
                log.warning("the webhook was not told: %s", problem, extra={"failures": failures})
            await asyncio.sleep(WEBHOOK.wait_s(failures))

    async def _tell(self, changes: Sequence[Alert]) -> str:
        """Send one request; what went wrong, empty if nothing."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[str] = loop.create_future()
        try:
            connection = self._connection()
        except (ValueError, http.client.HTTPException):
            return f"{mask_webhook(self._url)} is not a URL"

        def answer(problem: str) -> None:
            if not answered.done():
                answered.set_result(problem)

        def post() -> None:
            problem = self._post(connection, changes)
            with contextlib.suppress(RuntimeError):  # The loop was closed: nobody waits.
                loop.call_soon_threadsafe(answer, problem)

        # Not asyncio.to_thread: the end of the process would wait for its threads, and a receiver may take for ever.
        threading.Thread(target=post, name="webhook", daemon=True).start()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await answered
        except TimeoutError:
            return f"{mask_webhook(self._url)}: no whole answer within {TIMEOUT_S:g} s"
        finally:
            # Wakes the thread if it still reads or writes.
            if (sock := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)

    def _post(self, connection: http.client.HTTPConnection, changes: Sequence[Alert]) -> str:
        """Send one request in a thread; a redirect is an answer like any other that is not 2xx, and not followed."""
        body = {"namespace": self._namespace, "alerts": [msgspec.to_builtins(change) for change in changes]}
        headers = {"Content-Type": "application/json", "User-Agent": "swell"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        parts = urlsplit(self._url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        where = mask_webhook(self._url)
        try:
            connection.request("POST", target, json.dumps(body).encode(), headers)
            status = connection.getresponse().status
        except http.client.InvalidURL:  # Its text would show the path.
            return f"{where}: the URL has characters that HTTP cannot carry"
        except (OSError, http.client.HTTPException) as error:
            return f"{where}: {error or type(error).__name__}"
        except ValueError as error:  # The text would show the secret or the path.
            return f"{where}: the URL or the secret has characters that HTTP cannot carry ({type(error).__name__})"
        finally:
            connection.close()
        return "" if 200 <= status < 300 else f"{where} answered {status}"
