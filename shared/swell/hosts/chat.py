"""A chat model behind an OpenAI-compatible URL as an agent: its conversation is its state, kept as agents' state is.

An answer that was given is in the conversation exactly if its message was settled: a worker that dies between the two
has the model asked again, and the first answer is forgotten.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Literal

import msgspec

from swell.agent import Agent, handler
from swell.agent_state import MAX_STATE_BYTES
from swell.errors import AppError, GiveUp
from swell.hosts.endpoint import Endpoint, EndpointError

#: What a turn takes beside its text, bytes.
_TURN_BYTES = 64


class Turn(msgspec.Struct, forbid_unknown_fields=False):
    """One message of a conversation, as the API has it."""

    role: Literal["system", "user", "assistant"]
    content: str


class Conversation(msgspec.Struct):
    """What a chat agent keeps.

    Attributes:
        turns: the newest ones, oldest first, without the system prompt.
    """

    turns: list[Turn] = []


class _Choice(msgspec.Struct):
    message: Turn


class _Delta(msgspec.Struct):
    content: str | None = None


class _Piece(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Piece] = []
    error: Any = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def chat(
    base_url: str, model: str, *, system: str = "", token_env: str = "", keep: int = 40, **options: Any
) -> type[Agent]:
    """Make an agent class of a chat model.

    Its handlers: `say(text) -> text` goes on with the conversation; `stream(text) -> text` does, too, and emits the
    answer's pieces as they come; `forget()` begins a new one, `history()` tells it.

    Args:
        base_url: where the API is, with its version: https://host/v1. It is posted to `{base_url}/chat/completions`.
        model: its name.
        system: the system prompt; empty for none.
        token_env: the environment variable that holds the key; empty for none. Agents do not start without it.
        keep: turns of the conversation that are kept and sent, at least 2; older ones are dropped, and such as do not
            fit into an agent's state (256 KiB).
        options: further fields of each request: temperature, max_tokens.

    Raises:
        AppError: the URL is none, there is no model, `keep` is too small, or httpx is not installed.
    """
    if not model:
        raise AppError("chat: name a model")
    if keep < 2:
        raise AppError(f"chat: keep {keep} must be at least 2: a question and its answer")
    if reserved := sorted(options.keys() & {"messages", "model", "stream", "n"}):
        raise AppError(f"chat: {', '.join(reserved)} cannot be given: the agent sets it")
    endpoint = Endpoint(f"{base_url.rstrip('/')}/chat/completions", {}, token_env)
    prompt = [Turn("system", system)] if system else []
    members = {"endpoint": endpoint, "model": model, "prompt": prompt, "keep": keep, "options": options}
    return type("Chat", (_Chat,), members | {"__module__": __name__})


class _Chat(Agent):
    state: Conversation
    endpoint: Endpoint
    model: str
    prompt: list[Turn]
    keep: int
    options: dict[str, Any]

    async def started(self) -> None:
        """See that the key is there.

        Raises:
            SwellError: it is not.
        """
        self.endpoint.check()

    @classmethod
    async def _swell_release(cls) -> None:
        await cls.endpoint.close()

    @handler
    async def say(self, text: str) -> str:
        """Ask the model, with the conversation so far.

        Raises:
            EndpointError: trying again can help.
            GiveUp: it cannot.
        """
        turns = self._turns(text)
        answer = await self.endpoint.post(self._request(turns), {"Swell-Agent": self.id})
        try:
            said = msgspec.convert(answer, _Completion).choices[0].message
        except (msgspec.ValidationError, IndexError) as error:
            raise self._no_completion(error) from None
        self.state.turns = self._kept([*turns, said])
        return said.content

    @handler
    async def stream(self, text: str) -> str:
        """As `say`; what is said is emitted piece by piece. An attempt that failed had emitted a part of it.

        Raises:
            EndpointError: trying again can help: the answer broke off, say.
            GiveUp: it cannot.
        """
        turns, said, finished = self._turns(text), "", False
        request = {**self._request(turns), "stream": True}
        async with aclosing(self.endpoint.events(request, {"Swell-Agent": self.id})) as events:
            async for event in events:
                if event is None:
                    finished = True
                    break
                try:
                    chunk = msgspec.convert(event, _Chunk)
                except msgspec.ValidationError as error:
                    raise self._no_completion(error) from None
                if chunk.error is not None:
                    raise EndpointError(f"{self.endpoint.name} ended its answer with an error: {chunk.error!r:.200}")
                for piece in chunk.choices[:1]:
                    finished = finished or piece.finish_reason is not None
                    if piece.delta.content:
                        said += piece.delta.content
                        await self.emit(piece.delta.content)
        if not finished:
            raise EndpointError(f"{self.endpoint.name} broke its answer off after {len(said)} characters")
        self.state.turns = self._kept([*turns, Turn("assistant", said)])
        return said

    def _turns(self, text: str) -> list[Turn]:
        return [*self.state.turns, Turn("user", text)][-self.keep :]

    def _kept(self, turns: list[Turn]) -> list[Turn]:
        """The newest turns that may be kept, by their number and their bytes."""
        size = 0
        for place in reversed(range(max(0, len(turns) - self.keep), len(turns))):
            size += len(turns[place].content.encode()) + _TURN_BYTES
            if size > MAX_STATE_BYTES - _TURN_BYTES:
                return turns[place + 1 :]
        return turns[-self.keep :]

    def _request(self, turns: list[Turn]) -> dict[str, Any]:
        return {"model": self.model, "messages": msgspec.to_builtins([*self.prompt, *turns]), **self.options}

    def _no_completion(self, error: Exception) -> GiveUp:
        return GiveUp(f"{self.endpoint.name} answered with no completion: {error}")

    @handler
    async def forget(self) -> None:
        """Begin a new conversation."""
        self.state.turns = []

    @handler
    async def history(self) -> list[Turn]:
        """Tell the conversation."""
        return self.state.turns
