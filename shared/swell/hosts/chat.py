"""A chat model behind an OpenAI-compatible URL as an agent: its conversation is its state, kept as agents' state is.

An answer that was given is in the conversation exactly if its message was settled: a worker that dies between the two
has the model asked again, and the first answer is forgotten.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from swell.agent import Agent, handler
from swell.errors import AppError, GiveUp
from swell.hosts.endpoint import Endpoint


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


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def chat(
    base_url: str, model: str, *, system: str = "", token_env: str = "", keep: int = 40, **options: Any
) -> type[Agent]:
    """Make an agent class of a chat model.

    Its handlers: `say(text) -> text` goes on with the conversation, `forget()` begins a new one, `history()` tells it.

    Args:
        base_url: where the API is, with its version: https://host/v1. It is posted to `{base_url}/chat/completions`.
        model: its name.
        system: the system prompt; empty for none.
        token_env: the environment variable that holds the key; empty for none. Agents do not start without it.
        keep: turns of the conversation that are kept and sent, at least 2; older ones are dropped.
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

    @handler
    async def say(self, text: str) -> str:
        """Ask the model, with the conversation so far.

        Raises:
            EndpointError: trying again can help.
            GiveUp: it cannot.
        """
        turns = [*self.state.turns, Turn("user", text)][-self.keep :]
        request = {"model": self.model, "messages": msgspec.to_builtins([*self.prompt, *turns]), **self.options}
        answer = await self.endpoint.post(request, {"Swell-Agent": self.id})
        try:
            completion = msgspec.convert(answer, _Completion)
            said = completion.choices[0].message
        except (msgspec.ValidationError, IndexError) as error:
            raise GiveUp(f"{self.endpoint.name} answered with no completion: {error}") from None
        self.state.turns = [*turns, said][-self.keep :]
        return said.content

    @handler
    async def forget(self) -> None:
        """Begin a new conversation."""
        self.state.turns = []

    @handler
    async def history(self) -> list[Turn]:
        """Tell the conversation."""
        return self.state.turns
