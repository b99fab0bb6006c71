"""Apps and agents: what a user declares is understood, and what cannot work is refused where it is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from swell.agent import Agent, handler, handlers_of
from swell.app import App, load_app
from swell.errors import AppError


class Review(msgspec.Struct):
    path: str
    lines: int = 0


class Reviewer(Agent):
    async def started(self, args: Review) -> None:
        pass

    @handler
    async def review(self, body: Review) -> str:
        return body.path

    @handler
    async def anything(self, body) -> None:  # type: ignore[no-untyped-def]
        pass

    @handler
    async def nothing(self) -> int:
        return 1

    async def not_a_handler(self, body: Review) -> None:
        pass


def test_handlers_are_the_methods_that_are_marked() -> None:
    found = handlers_of(Reviewer)
    assert set(found) == {"review", "anything", "nothing"}
    assert [found[name].takes_body for name in ("review", "anything", "nothing")] == [True, True, False]


def test_a_body_is_decoded_as_the_handler_declares_it() -> None:
    found = handlers_of(Reviewer)
    body = msgspec.msgpack.encode({"path": "a.py", "lines": 3})
    assert found["review"].decode(body) == Review("a.py", 3)
    assert found["anything"].decode(body) == {"path": "a.py", "lines": 3}
    with pytest.raises(msgspec.ValidationError, match=r"\$\.lines"):
        found["review"].decode(msgspec.msgpack.encode({"path": "a.py", "lines": "three"}))


async def test_a_handler_is_called_with_the_agent_first() -> None:
    assert await handlers_of(Reviewer)["review"].function(Reviewer(), Review("a.py")) == "a.py"


def test_handlers_are_inherited_and_may_be_overridden() -> None:
    class Strict(Reviewer):
        @handler
        async def review(self, body: int) -> str:  # type: ignore[override]
            return str(body)

        @handler
        async def more(self) -> None:
            pass

    found = handlers_of(Strict)
    assert set(found) == {"review", "anything", "nothing", "more"}
    assert found["review"].decode(msgspec.msgpack.encode(3)) == 3


def test_a_method_overridden_without_the_mark_is_no_handler() -> None:
    class Quiet(Reviewer):
        async def review(self, body: Review) -> str:
            return ""

    assert "review" not in handlers_of(Quiet)


def test_a_handler_must_be_a_coroutine_with_a_public_name() -> None:
    with pytest.raises(AppError, match=r"plain must be 'async def'"):

        @handler  # type: ignore[type-var]
        def plain(self: Any) -> None:
            pass

    with pytest.raises(AppError, match=r"_hidden must not begin with '_'"):

        @handler
        async def _hidden(self: Any) -> None:
            pass


def test_a_handler_with_two_parameters_is_refused() -> None:
    class Greedy(Agent):
        @handler
        async def add(self, a: int, b: int) -> int:
            return a + b

    with pytest.raises(AppError, match=r"Greedy.add takes 2 parameters"):
        App("test").agent("greedy")(Greedy)


def test_a_body_type_that_cannot_be_decoded_or_found_is_refused() -> None:
    class Opaque(Agent):
        @handler
        async def take(self, body: list[int] | set[int]) -> None:
            pass

    class Lost(Agent):
        @handler
        async def take(self, body: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
            pass

    with pytest.raises(AppError, match=r"Opaque.take: bodies of type"):
        App("test").agent("opaque")(Opaque)
    with pytest.raises(AppError, match=r"Lost.take: its annotations cannot be resolved: name 'Missing'"):
        App("test").agent("lost")(Lost)


def test_a_declared_type_has_its_handlers_limits_and_arguments() -> None:
    app = App("test")
    assert app.agent("reviewer", max_attempts=5, timeout=None)(Reviewer) is Reviewer
    declared = app.types["reviewer"]
    assert (declared.name, declared.cls, declared.max_attempts, declared.timeout) == ("reviewer", Reviewer, 5, None)
    assert set(declared.handlers) == {"review", "anything", "nothing"}
    assert declared.decode_args is not None
    assert declared.decode_args(msgspec.msgpack.encode({"path": "a.py"})) == Review("a.py")


def test_a_type_whose_start_takes_nothing_has_no_arguments() -> None:
    app = App("test")

    @app.agent("plain")
    class Plain(Agent):
        pass

    assert app.types["plain"].decode_args is None


def test_one_class_may_serve_two_types() -> None:
    app = App("test")
    app.agent("one")(Reviewer)
    app.agent("two")(Reviewer)
    assert app.types["one"].cls is app.types["two"].cls


@pytest.mark.parametrize("name", ["", "a/b", "a b", "$system", "-a", "x" * 129, "ä"])
def test_a_malformed_type_name_is_refused(name: str) -> None:
    with pytest.raises(AppError, match="must be 1 to 128 letters"):
        App("test").agent(name)


def test_a_type_declared_twice_is_refused() -> None:
    app = App("test")
    app.agent("reviewer")(Reviewer)
    with pytest.raises(AppError, match="'reviewer' is declared twice in app 'test'"):
        app.agent("reviewer")


@pytest.mark.parametrize(
    ("limits", "says"),
    [({"max_attempts": 0}, "max_attempts 0"), ({"timeout": 0}, "timeout 0"), ({"timeout": -1}, "-1")],
)
def test_a_limit_out_of_bounds_is_refused(limits: dict[str, Any], says: str) -> None:
    with pytest.raises(AppError, match=says):
        App("test").agent("reviewer", **limits)


@pytest.mark.parametrize("wrong", [int, Reviewer(), None])
def test_only_a_subclass_of_agent_or_a_function_can_be_declared(wrong: Any) -> None:
    with pytest.raises(AppError, match=r"must be a subclass of swell\.Agent"):
        App("test").agent("wrong")(wrong)


def test_an_agents_key_is_its_id_without_the_type() -> None:
    agent = Reviewer()
    agent.id = "reviewer/0007"
    assert agent.key == "0007"


def test_apps_do_not_share_their_types() -> None:
    App("one").agent("reviewer")(Reviewer)
    assert App("two").types == {}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of a user; what is imported from it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)) or name.startswith("user_"):
            del sys.modules[name]


APP = """
from swell.agent import Agent
from swell.app import App
app = App("users")
empty = App("empty")
@app.agent("users")
class User(Agent): ...
"""


def test_an_app_is_loaded_from_the_working_directory(directory: Path) -> None:
    (directory / "user_app.py").write_text(APP)
    assert set(load_app("user_app:app").types) == {"users"}


def test_the_app_that_comes_with_swell_is_loaded() -> None:
    assert set(load_app("swell.echo:app").types) == {"echo"}


@pytest.mark.parametrize(
    ("source", "path", "says"),
    [
        (APP, "user_app", "must be 'module:attribute'"),
        (APP, ":app", "must be 'module:attribute'"),
        (APP, "user_app:", "must be 'module:attribute'"),
        (APP, "user_ap:app", "there is no module 'user_ap' here"),
        (APP, "user_missing.deep:app", "there is no module 'user_missing' here"),
        (APP, "user_app:ap", "no App named 'ap'; it has: app, empty"),
        (APP, "user_app:User", "no App named 'User'"),
        (APP, "user_app:empty", "declares no agent type"),
        ("x = 1", "user_app:app", "no App named 'app'; it has no swell.App at all"),
        ("import user_needed", "user_app:app", "it needs the module 'user_needed', which is not installed"),
        ("def broken(:", "user_app:app", "does not import: SyntaxError"),
        ("\n\n1 / 0", "user_app:app", r"ZeroDivisionError: division by zero \(.*user_app.py:3\)"),
    ],
)
def test_an_app_that_cannot_be_loaded_says_why(directory: Path, source: str, path: str, says: str) -> None:
    (directory / "user_app.py").write_text(source)
    with pytest.raises(AppError, match=says):
        load_app(path)
