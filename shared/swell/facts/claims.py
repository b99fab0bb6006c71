"""Seats of owners that live elsewhere: who asks over HTTP is known by the name it gives, and renews by asking again."""

from __future__ import annotations

from collections.abc import Callable

from swell.bus.facts import ANY_TOKEN, Seat
from swell.errors import LockLost, StaleFence
from swell.facts.seats import Desk, Wish, claim, looked_up
from swell.facts.values import (
    LEAST_SEAT_S,
    MOST_SEAT_S,
    MOST_SEATS,
    SeatKind,
    check_key,
    check_number,
    check_own,
    milliseconds,
    parse_fence,
)


class Claims:
    """What may be asked for an owner that is named: `client.facts.claims`.

    Whoever gives an owner's name is that owner: owners choose names that nobody else has.
    """

    def __init__(self, desk: Desk, shard: Callable[[str], str]) -> None:
        self._desk = desk
        self._shard = shard

    async def take(self, kind: SeatKind, name: str, owner: str, *, ttl: float, seats: int = 1, wait: float = 0) -> Seat:
        """Take a seat for `ttl` seconds; asked again by who holds it, it is kept for so long again.

        Args:
            kind: lock, semaphore or leader.
            name: which one.
            owner: 1 to 512 bytes of printable text.
            ttl: how long the seat, or the place in the line, is kept without a sign of life, 0.1..3600 seconds.
            seats: of a semaphore; 1 for the others.
            wait: how long to wait in the line, seconds.

        Raises:
            LockHeld: others held it for all of `wait`; the error names them.
            InUse: others use the name with another number of seats.
            BrokerUnavailable: the server was away for all of `wait`.
        """
        check_number(seats, 1, MOST_SEATS if kind == "semaphore" else 1, "seats")
        ttl_ms = milliseconds(ttl, LEAST_SEAT_S, MOST_SEAT_S)
        seat = self._seat(kind, name, owner, ANY_TOKEN)
        return await claim(self._desk, Wish(seat.shard, seat.name, seat.owner, seats, ttl_ms), wait)

    async def renew(self, kind: SeatKind, name: str, owner: str, token: int, *, ttl: float) -> Seat:
        """Keep the seat that was given under a token, and no other, for `ttl` seconds more.

        Raises:
            LockLost: it is no longer the owner's.
        """
        check_number(token, 1, 2**53, "token")
        ttl_ms = milliseconds(ttl, LEAST_SEAT_S, MOST_SEAT_S)
        seat = self._seat(kind, name, owner, token)
        (ours,) = await self._desk.broker.hold_renew([(seat, ttl_ms)])
        if not ours:
            raise LockLost(name, token)
        return seat

    async def release(self, kind: SeatKind, name: str, owner: str, token: int | None = None) -> bool:
        """Give a seat back and leave the line; False if the owner held none, or another one than that of `token`."""
        if token is not None:
            check_number(token, 1, 2**53, "token")
        return await self._desk.broker.hold_leave(self._seat(kind, name, owner, token or ANY_TOKEN))

    async def fence(self, key: str, fence: str) -> Seat:
        """The seat that is to fence a write of `key`, from `lock/deploy:TOKEN`; the write looks at it again.

        Raises:
            WrongBody: it is not written so.
            StaleFence: nobody holds that lock under this token.
        """
        place, token = parse_fence(fence)
        shard = self._shard(place)
        state = await looked_up(self._desk.broker, shard, place)
        for holder in state.holders if state is not None else ():
            if holder.token == token:
                return Seat(shard, place, holder.owner, token)
        raise StaleFence(key, place.partition("/")[2], token)

    def _seat(self, kind: SeatKind, name: str, owner: str, token: int) -> Seat:
        check_own(name, "name")
        check_key(owner, "owner")
        place = f"{kind}/{name}"
        return Seat(self._shard(place), place, owner, token)
