"""What the parts of the Redis broker need of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from swell.bus.link import Link
from swell.bus.waiting_read import WaitingRead
from swell.keys import Keys


class RedisCalls(Protocol):
    """The keys of a namespace, and calls to its server; `swell.bus.redis` has them."""

    _keys: Keys

    def _link(self, purpose: str) -> Link: ...

    def _waiting_read(self, purpose: str) -> WaitingRead: ...

    async def _function(self, purpose: str, name: str, keys: Sequence[bytes], args: Sequence[Any]) -> Any: ...

    async def _confirmed(self, purpose: str, name: str, keys: Sequence[bytes], args: Sequence[Any]) -> Any: ...
