"""autogen-core: messages to one agent of a `SingleThreadedAgentRuntime`. One process, nothing durable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, message_handler

from benchmarks.peers.contract import Facts, meter

FACTS = Facts(
    title="autogen-core (one process)",
    package="autogen-core",
    delivery="in memory of one process; nothing is durable",
    after_kill="lost",
    order="of the runtime's queue by start",
    asks="`send_message` returns the handler's result",
    worker=False,
    bulk=100,
    tuned={
        "send_message": "gathered, 100 at once: there is no bulk call",
        "tracing": "off",
    },
    note="sender and receiver share one process, nothing is serialised and no server is asked",
)


@dataclass
class Take:
    """One way."""

    payload: str


@dataclass
class Echo:
    """There and back."""

    payload: str


class Receiver(RoutedAgent):
    """Takes messages."""

    def __init__(self) -> None:
        super().__init__("receiver")

    @message_handler
    async def take(self, message: Take, ctx: MessageContext) -> None:
        """One way."""
        meter.take(message.payload)

    @message_handler
    async def echo(self, message: Echo, ctx: MessageContext) -> Echo:
        """There and back."""
        return message


def work(url: str) -> None:
    """There is no worker process."""
    raise NotImplementedError


class AutogenSender:
    """A runtime with one agent."""

    def __init__(self, runtime: SingleThreadedAgentRuntime) -> None:
        self._runtime = runtime
        self._to = AgentId("receiver", "one")

    async def send_all(self, payloads: Sequence[str]) -> None:
        """As many calls at once as given."""
        await asyncio.gather(*map(self.send, payloads))

    async def send(self, payload: str) -> None:
        """One message; returns when it is handled."""
        await self._runtime.send_message(Take(payload), self._to)

    async def ask(self, payload: str) -> str:
        """One message and its result."""
        answer: Echo = await self._runtime.send_message(Echo(payload), self._to)
        return answer.payload

    async def left(self) -> int:
        """What the runtime's queue holds."""
        return int(self._runtime.unprocessed_messages_count)


@contextlib.asynccontextmanager
async def sender(url: str) -> AsyncIterator[AutogenSender]:
    """Start the runtime."""
    runtime = SingleThreadedAgentRuntime()
    await Receiver.register(runtime, "receiver", Receiver)
    runtime.start()
    yield AutogenSender(runtime)
    await runtime.stop_when_idle()
