"""HTTP endpoints and chat models as agents, against a small server of the test's own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from swell import App, AppError, HandlerFailed, StartFailed, hosts
from swell.hosts import endpoint
from swell_worker import retrying
from tests.unit.brokers import NO_WAIT, Rig, rig_of

#: What the server answers: status, headers, body.
Answer = tuple[int, dict[str, str], bytes]


class Server:
    """A server that answers as it is told, and keeps what it was asked: path, headers, JSON."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.answer: Callable[[Any], Answer] = lambda body: (200, {}, json.dumps(body).encode())
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers, text = outer.answer(body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "RETRY", NO_WAIT)


@asynccontextmanager
async def hosting(kind: Any, **limits: Any) -> AsyncIterator[Rig]:
    app = App("hosts")
    app.agent("it", **limits)(kind)
    async with rig_of() as rig:
        await rig.start(app)
        try:
            await rig.spawn("it/1")
            yield rig
        finally:
            await kind.endpoint.close()


async def test_a_message_is_posted_and_the_answer_is_its_result(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORES_TOKEN", "s3cret")
    kind = hosts.http(f"{server.url}/score?v=2", handlers=["score"], headers={"X-A": "b"}, token_env="SCORES_TOKEN")
    async with hosting(kind) as rig:
        assert await rig.client.ask("it/1", "score", {"text": "ä", "n": [1, None]}) == {"text": "ä", "n": [1, None]}
    ((path, headers, body),) = server.asked
    assert (path, body) == ("/score?v=2", {"text": "ä", "n": [1, None]})
    expected = {
        "swell-agent": "it/1",
        "swell-handler": "score",
        "x-a": "b",
        "authorization": "Bearer s3cret",
        "content-type": "application/json",
    }
    assert headers.items() >= expected.items()


async def test_an_empty_answer_is_nothing(server: Server) -> None:
    server.answer = lambda _: (204, {}, b"")
    async with hosting(hosts.http(server.url)) as rig:
        assert await rig.client.ask("it/1", "post", 1) is None


@pytest.mark.parametrize("status", [500, 503, 429, 408])
async def test_what_may_pass_is_tried_again_after_the_wait_asked_for(
    server: Server, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(delay: float, result: Any = None) -> Any:
        if delay == 7:
            waits.append(delay)
            delay = 0
        return await real(delay, result)

    monkeypatch.setattr(endpoint.asyncio, "sleep", sleep)
    answers = iter([(status, {"Retry-After": "7"}, b"later"), (200, {}, b'"done"')])
    server.answer = lambda _: next(answers)
    async with hosting(hosts.http(server.url), max_attempts=3) as rig:
        assert await rig.client.ask("it/1", "post", 1) == "done"
    assert (len(server.asked), waits) == (2, [7])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {}, b"no such thing"), "answered 404: 'no such thing'"),
        ((302, {"Location": "http://elsewhere.example/"}, b""), "answered 302"),
        ((200, {}, b"<html>"), "something that is no JSON: '<html>'"),
        ((200, {}, b'"' + b"x" * (3 << 20) + b'"'), "more than 2,097,152 bytes"),
    ],
)
async def test_what_will_not_pass_is_given_up_at_once(server: Server, answer: Answer, said: str) -> None:
    server.answer = lambda _: answer
    async with hosting(hosts.http(f"{server.url}/x?secret=1"), max_attempts=5) as rig:
        with pytest.raises(HandlerFailed, match=said) as raised:
            await rig.client.ask("it/1", "post", 1)
    assert len(server.asked) == 1
    assert "secret" not in str(raised.value)


async def test_a_server_that_is_away_is_tried_again_and_then_the_message_is_dead(server: Server) -> None:
    url = server.url
    server._http.server_close()
    async with hosting(hosts.http(url), max_attempts=2) as rig:
        with pytest.raises(HandlerFailed, match=r"failed 2 times, at last: EndpointError: .*ConnectError"):
            await rig.client.ask("it/1", "post", 1)


async def test_agents_do_not_start_without_their_token(server: Server) -> None:
    app = App("hosts")
    app.agent("it")(hosts.http(server.url, token_env="NOT_THERE"))
    async with rig_of() as rig:
        await rig.start(app)
        with pytest.raises(StartFailed, match="set NOT_THERE in the worker's environment"):
            await rig.spawn("it/1")


async def test_a_token_is_in_no_error_and_not_in_the_log_though_the_endpoint_repeats_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SCORES_TOKEN", "s3cret\n")
    server.answer = lambda _: (401, {}, f"not {server.asked[-1][1]['authorization']}".encode())
    async with hosting(hosts.http(server.url, token_env="SCORES_TOKEN")) as rig:
        with pytest.raises(HandlerFailed, match=r"answered 401: 'not Bearer \*\*\*'"):
            await rig.client.ask("it/1", "post", 1)
    assert server.asked[0][1]["authorization"] == "Bearer s3cret"
    assert "dead letter" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("token", ["s3\ncret", "gehe\u00efm"])
async def test_agents_do_not_start_with_a_token_that_no_header_can_carry(
    server: Server, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("SCORES_TOKEN", token)
    app = App("hosts")
    app.agent("it")(hosts.http(server.url, token_env="SCORES_TOKEN"))
    async with rig_of() as rig:
        await rig.start(app)
        with pytest.raises(StartFailed, match="SCORES_TOKEN must be printable") as raised:
            await rig.spawn("it/1")
    assert token not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: hosts.http("ftp://x/y"), "must begin with http"),
        (lambda: hosts.http("http://"), "must begin with http"),
        (lambda: hosts.http("https://user:pa55@host/"), "token_env"),
        (lambda: hosts.http("http://host/", handlers=["stopped"]), "'stopped' cannot be"),
        (lambda: hosts.chat("http://host/v1", ""), "name a model"),
        (lambda: hosts.chat("http://host/v1", "m", keep=1), "keep 1"),
        (lambda: hosts.chat("http://host/v1", "m", stream=True), "stream cannot be given"),
    ],
)
def test_what_cannot_be_hosted_is_said_when_it_is_declared(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(AppError, match=said) as raised:
        make()
    assert "pa55" not in str(raised.value)


# Chat models.


def completion(body: Any) -> Answer:
    """Answers with the number of messages and the last one, as an OpenAI-compatible server does."""
    said = f"{len(body['messages'])}: {body['messages'][-1]['content']}"
    message = {"role": "assistant", "content": said, "refusal": None}
    answer = {"id": "c1", "object": "chat.completion", "choices": [{"index": 0, "message": message}], "usage": {}}
    return 200, {}, json.dumps(answer).encode()


async def test_a_chat_goes_on_where_it_was_also_with_another_worker(server: Server) -> None:
    server.answer = completion
    app = App("hosts")
    kind: Any = hosts.chat(f"{server.url}/v1/", "small", system="Be brief.", keep=4, temperature=0)
    app.agent("it")(kind)
    async with rig_of() as rig:
        one = await rig.start(app)
        await rig.spawn("it/1")
        assert await rig.client.ask("it/1", "say", "hello") == "2: hello"
        assert await rig.client.ask("it/1", "say", "again") == "4: again"
        await rig.start(app)
        await one.leave()
        assert await rig.client.ask("it/1", "say", "third") == "5: third", "the prompt, and the last four turns"
        assert [turn["content"] for turn in await rig.client.ask("it/1", "history")][-2:] == ["third", "5: third"]
        await rig.client.ask("it/1", "forget")
        assert await rig.client.ask("it/1", "say", "new") == "2: new"
        await kind.endpoint.close()
    path, _, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
        "temperature": 0,
    }


def streamed(*events: Any, end: str = "data: [DONE]\n\n") -> Answer:
    """As an OpenAI-compatible server streams: the pieces of an answer, a comment among them."""
    text = ": keep-alive\r\n\r\n" + "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events) + end
    return 200, {"Content-Type": "text/event-stream; charset=utf-8"}, text.encode()


def piece(text: str | None, finish: str | None = None) -> Any:
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
    }


async def test_a_chat_that_is_streamed_emits_its_pieces_and_goes_on_with_the_conversation(server: Server) -> None:
    last = {"choices": [], "usage": {"total_tokens": 9}}
    server.answer = lambda _: streamed(piece(""), piece("Hä"), piece("llo"), piece(None, "stop"), last)
    async with hosting(hosts.chat(server.url, "small", temperature=0)) as rig:
        answer = await rig.client.stream("it/1", "stream", "hello")
        assert [one async for one in answer] == ["Hä", "llo"]
        assert await answer.result() == "Hällo"
        server.answer = completion
        assert await rig.client.ask("it/1", "say", "again") == "3: again"
        history = await rig.client.ask("it/1", "history")
    assert [turn["content"] for turn in history] == ["hello", "Hällo", "again", "3: again"]
    assert [body.get("stream") for _, _, body in server.asked] == [True, None]
    assert server.asked[0][2]["temperature"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        streamed(piece("Hel"), end=""),
        streamed(piece("Hel"), {"error": {"message": "overloaded"}}),
        (503, {}, b"later"),
    ],
)
async def test_a_streamed_answer_that_breaks_off_is_asked_for_again(server: Server, answer: Answer) -> None:
    answers = iter([answer, streamed(piece("Hello", "stop"), end="")])
    server.answer = lambda _: next(answers)
    async with hosting(hosts.chat(server.url, "small"), max_attempts=2) as rig:
        assert await rig.client.ask("it/1", "stream", "hello") == "Hello"
        history = await rig.client.ask("it/1", "history")
    assert [turn["content"] for turn in history] == ["hello", "Hello"]
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (completion({"messages": [{"content": "x"}]}), "no event stream"),
        (streamed({"choices": [{"delta": 7}]}), "no completion"),
        ((200, {"Content-Type": "text/event-stream"}, b"data: {\n\n"), "something that is no JSON"),
        ((200, {"Content-Type": "text/event-stream"}, b"data: " + b"x" * (3 << 20)), "more than 2,097,152 bytes"),
        ((400, {}, b"no such model"), "answered 400: 'no such model'"),
    ],
)
async def test_a_streamed_answer_that_cannot_be_one_is_given_up_at_once(
    server: Server, answer: Answer, said: str
) -> None:
    server.answer = lambda _: answer
    async with hosting(hosts.chat(server.url, "small"), max_attempts=5) as rig:
        with pytest.raises(HandlerFailed, match=said):
            await rig.client.ask("it/1", "stream", "hello")
        assert await rig.client.ask("it/1", "history") == []
    assert len(server.asked) == 1


@pytest.mark.parametrize(("size", "left"), [(60_000, 8), (300_000, 0)])
async def test_a_conversation_stays_within_what_an_agent_may_keep(server: Server, size: int, left: int) -> None:
    message = {"role": "assistant", "content": "x" * size}
    server.answer = lambda _: (200, {}, json.dumps({"choices": [{"message": message}]}).encode())
    async with hosting(hosts.chat(server.url, "small"), max_attempts=1) as rig:
        for _ in range(10):
            assert len(await rig.client.ask("it/1", "say", "hello", str)) == size
        assert len(await rig.client.ask("it/1", "history")) == left


async def test_an_answer_that_is_no_completion_leaves_the_conversation_as_it_was(server: Server) -> None:
    server.answer = lambda _: (200, {}, b'{"choices": []}')
    async with hosting(hosts.chat(server.url, "small")) as rig:
        with pytest.raises(HandlerFailed, match="no completion"):
            await rig.client.ask("it/1", "say", "hello")
        assert len(server.asked) == 1
        assert await rig.client.ask("it/1", "history") == []
