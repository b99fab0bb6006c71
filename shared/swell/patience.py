"""uvicorn's HTTP/1.1 with an end to patience: who connects and says little, slowly, is not waited for.

uvicorn bounds the time between two requests, but neither the time until the first one nor how long one may take to
arrive. A few hundred such connections (slow loris) would hold all that a process may open.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: A request is here as a whole, head and body, so long after its first byte (or the connection), seconds.
REQUEST_TIMEOUT_S = 30.0
#: Connections of one process at a time; well below the 1,024 files that a process may usually have open.
MOST_CONNECTIONS = 500
#: Bytes of a request's line and headers together.
MAX_HEAD_BYTES = 32_768

_FULL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n"


class PatientProtocol(H11Protocol):
    """One connection. It is closed if a request takes too long to arrive, or if there are too many others."""

    _giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection: the request is due."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.write(_FULL)
            transport.close()
            return
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Some bytes: of a request that is whole now, or not yet."""
        super().data_received(data)
        theirs = self.conn.their_state
        if theirs is h11.SEND_BODY or (theirs is h11.IDLE and self.conn.trailing_data[0]):
            self._expect()
        else:
            self._relax()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, whoever wanted it."""
        self._relax()
        super().connection_lost(exc)

    def _expect(self) -> None:
        if self._giving_up is None:
            # Not close(): what was written and is not read would keep the connection.
            self._giving_up = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def _relax(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
