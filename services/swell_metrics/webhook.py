"""Telling alerts to a URL: each change at least once, in order, without ever holding up the service.

What was not told yet is kept with the alerts, so a webhook that is away for a while, or the end of this process, loses
none of it (up to MOST_UNTOLD changes). A receiver may be told a change twice, if its answer or our note of it got lost.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from email.message import Message
from typing import IO

import msgspec

from swell.alerts import Alert
from swell.backoff import WEBHOOK
from swell.config import mask_webhook
from swell.instruments import Recorder

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
#: Changes in one request.
MOST_AT_ONCE = 100


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other that is not 2xx: whoever answers may not send our secret elsewhere."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        return None


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
        self._opener = urllib.request.build_opener(_NoRedirect)
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
            problem = await asyncio.to_thread(self._post, changes)
            if not problem:
                failures = 0
                self._told(changes)
                continue
            failures += 1
            self._recorder.count("webhook_failures")
            if failures & (failures - 1) == 0:  # The first time, then ever more rarely.
                log.warning("the webhook was not told: %s", problem, extra={"failures": failures})
            await asyncio.sleep(WEBHOOK.wait_s(failures))

    def _post(self, changes: Sequence[Alert]) -> str:
        """Send one request; what went wrong, empty if nothing."""
        body = {"namespace": self._namespace, "alerts": [msgspec.to_builtins(change) for change in changes]}
        headers = {"Content-Type": "application/json", "User-Agent": "swell"}
        if self._secret:
            headers["Authorization"] = f"Bearer {self._secret}"
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers, method="POST")
        where = mask_webhook(self._url)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                answer.read(1024)
        except urllib.error.HTTPError as error:
            with error:
                return f"{where} answered {error.code}"
        except (OSError, http.client.HTTPException) as error:
            return f"{where}: {getattr(error, 'reason', error) or type(error).__name__}"
        return ""
