"""`make reference`: writes docs/reference.md from the docstrings of the public names. griffe reads them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs/reference.md"
#: Modules whose `__all__` is public, and what each is for.
MODULES = {
    "swell": "What programs and agents are written with.",
    "swell.facts": "What agents share: facts, locks, semaphores, barriers, leaders; [facts.md](facts.md).",
    "swell.hosts": "Agents of what you already have; [hosts.md](hosts.md).",
    "swell.testing": "Testing agents in memory; [testing.md](testing.md).",
    "swell.testing.plugin": "The same as pytest fixtures; [testing.md](testing.md).",
}
HEAD = """# Reference

Every public name, from its docstring. Made by `make reference`; a test fails if it is not up to date.
"""


def main() -> None:
    """Write it."""
    OUT.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"written: {OUT.relative_to(ROOT)}\n")


def render() -> str:
    """The whole page."""
    package = griffe.load("swell", search_paths=[str(ROOT / "shared")], docstring_parser="google")
    lines = [HEAD]
    for module, purpose in MODULES.items():
        lines += [f"## {module}\n", f"{purpose}\n"]
        for name in _public(package, module):
            lines += _name(package, module, name)
    return "\n".join(lines).rstrip() + "\n"


def _public(package: Any, module: str) -> list[str]:
    found = package if module == "swell" else package[module.removeprefix("swell.")]
    return sorted(str(name).strip("'\"") for name in found.exports or ())


def _name(package: Any, module: str, name: str) -> Iterator[str]:
    """One class or function, with what it has."""
    found = _resolve(package, module, name)
    if found.is_function:
        yield f"### `{_signature(found)}`\n"
        yield from _docstring(found)
        return
    if not found.is_class:
        yield f"### `{name}`\n"
        yield from _docstring(found)
        return
    bases = [str(base).rpartition(".")[2] for base in found.bases if str(base) not in ("Struct", "object")]
    yield f"### `{name}`" + (f" ({', '.join(f'`{base}`' for base in bases)})" if bases else "") + "\n"
    yield from _docstring(found)
    for member in sorted(_methods(found), key=lambda one: one.name):
        waits = "await " if "async" in member.labels else ""
        yield f"#### `{waits}{name}.{_signature(member)}`\n"
        yield from _docstring(member)


def _resolve(package: Any, module: str, name: str) -> Any:
    found = package if module == "swell" else package[module.removeprefix("swell.")]
    member = found[name]
    return member.final_target if member.is_alias else member


def _methods(found: Any) -> Iterator[Any]:
    """Public methods and properties that say what they do, inherited ones of ours included."""
    for name, member in found.all_members.items():
        target = member.final_target if member.is_alias else member
        callable_ = target.is_function or "property" in target.labels
        if not name.startswith("_") and callable_ and target.docstring and target.path.startswith("swell."):
            yield target


def _signature(found: Any) -> str:
    """Name, parameters with types and defaults, and result."""
    if not found.is_function:
        return f"{found.name}: {found.annotation}"
    shown, starred = [], False
    for parameter in found.parameters:
        if parameter.name in ("self", "cls"):
            continue
        kind = parameter.kind
        if kind is griffe.ParameterKind.keyword_only and not starred:
            shown.append("*")
            starred = True
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(kind, "")
        starred = starred or stars == "*"
        text = stars + parameter.name + (f": {parameter.annotation}" if parameter.annotation is not None else "")
        shown.append(text + (f" = {parameter.default}" if parameter.default is not None and not stars else ""))
    result = f" -> {found.returns}" if found.returns is not None else ""
    return f"{found.name}({', '.join(shown)}){result}"


def _docstring(found: Any) -> Iterator[str]:
    """The sections of a docstring, in their order."""
    if found.docstring is None:
        return
    for section in found.docstring.parse("google"):
        match section.kind:
            case griffe.DocstringSectionKind.text:
                yield f"{section.value}\n"
            case griffe.DocstringSectionKind.parameters | griffe.DocstringSectionKind.attributes:
                yield from (f"- `{one.name}`: {_flat(one.description)}" for one in section.value)
                yield ""
            case griffe.DocstringSectionKind.returns:
                yield from (f"Returns {_flat(one.description)}\n" for one in section.value)
            case griffe.DocstringSectionKind.raises:
                yield from (f"- raises `{one.annotation}`: {_flat(one.description)}" for one in section.value)
                yield ""
            case _:
                yield f"{section.value}\n"


def _flat(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
