"""What one entry of an inbox carries: a batch of series of messages. See `swell.wire` for the layout; no I/O here."""

from __future__ import annotations

from msgspec import Raw, Struct, structs
from msgspec.msgpack import Decoder


class Message(Struct, gc=False):
    """One application item, taken out of its series.

    Attributes:
        to: the agent addressed, `type/key`, or one of the system's addresses.
        name: the handler called.
        body: the argument, still encoded.
        sent_us: when `send()` was called, microseconds since 1970 on the sender's clock.
        sender: the agent that sent it, empty for a client.
        reply_to: the process that waits for the result, empty if none does.
        call: the waiting process's own number for this call.
        headers: trace context and the like; `swell-letter` if it was a dead letter before (`swell.letters`).
        expires_us: when it is too late to handle it, microseconds since 1970; 0 for never.
    """

    to: str
    name: str
    body: Raw
    sent_us: int
    sender: str = ""
    reply_to: str = ""
    call: int = 0
    headers: dict[str, str] | None = None
    expires_us: int = 0

    def alone(self) -> Series:
        """It as a series of its own."""
        return Series(self.to, self.name, 1, one_body(self.body), *structs.astuple(self)[3:])


class Series(Struct, array_like=True, gc=False):
    """Messages of one sender to one agent, sent at one moment; see `Message` for what is not said here.

    Attributes:
        count: how many; one, if an answer is wanted (`reply_to`).
        bodies: the MessagePack array of their bodies.
    """

    to: str
    name: str
    count: int
    bodies: Raw
    sent_us: int
    sender: str = ""
    reply_to: str = ""
    call: int = 0
    headers: dict[str, str] | None = None
    expires_us: int = 0

    def message(self, place: int) -> Message:
        """The message at a place, from 0."""
        return self._message(_bodies.decode(self.bodies)[place])

    def messages(self) -> list[Message]:
        """All of them, in order."""
        return [self._message(body) for body in _bodies.decode(self.bodies)]

    def _message(self, body: Raw) -> Message:
        return Message(self.to, self.name, body, *structs.astuple(self)[4:])

    def singles(self) -> list[Series]:
        """Each message as a series of its own, in order."""
        if self.count == 1:
            return [self]
        return [structs.replace(self, count=1, bodies=one_body(body)) for body in _bodies.decode(self.bodies)]


class Batch(Struct, array_like=True, gc=False):
    """One entry's content, decoded."""

    schema: int
    producer: str
    seq: int
    series: list[Series]

    @property
    def messages(self) -> list[Message]:
        """All messages, in order."""
        return [message for series in self.series for message in series.messages()]


def one_body(body: Raw) -> Raw:
    """The `bodies` of a series of one message."""
    return Raw(b"\x91" + bytes(body))


_bodies = Decoder(list[Raw])
