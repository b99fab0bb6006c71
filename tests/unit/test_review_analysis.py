"""What the review example finds: each rule on code that has the fault and on code that only looks like it."""

from pathlib import Path

import pytest

from examples.review import analysis, source
from examples.review.findings import RULES, Finding, finding
from examples.review.second_look import second_look

# rule -> (code with the fault on the lines marked `#!`, code without)
CASES: dict[str, tuple[str, str]] = {
    "mutable-default": (
        "def f(a, b=[]): #!\n    pass\ndef g(*, c: dict = dict()): #!\n    pass\n"
        "async def h(x, /, s={1}): #!\n    pass\n",
        "def f(a=(), b=None, c=frozenset()):\n    return [a]\n",
    ),
    "bare-except": (
        "try:\n    a()\nexcept: #!\n    log()\n",
        "try:\n    a()\nexcept:\n    undo()\n    raise\ntry:\n    a()\nexcept Exception:\n    log()\n",
    ),
    "silent-except": (
        "try:\n    a()\nexcept Exception: #!\n    pass\ntry:\n    a()\nexcept: #!\n    ...\n"
        "try:\n    a()\nexcept BaseException as e: pass #!\n",
        "try:\n    a()\nexcept KeyError:\n    pass\ntry:\n    a()\nexcept Exception:\n    pass; log()\n",
    ),
    "is-literal": (
        "if x is 1: #!\n    pass\ny = 'a' is not x #!\nz = x is -1 #!\n",
        "if x is None or x is True or x is ...:\n    pass\ny = x == 1\nw = 'is 1'\n",
    ),
    "self-comparison": (
        "a = x == x #!\nb = self.a.b <= self.a.b #!\nif 1 and d['k'] is not d['k']: #!\n    pass\nc = x not in x #!\n",
        "a = x != x\nb = f() == f()\nc = x.a == x.b\nd = a[i] == a[j]\ne = a.b == b\n",
    ),
    "unreachable": (
        "def f():\n    return 1\n    g() #!\nwhile a:\n    if b:\n        break\n        c = 1 #!\n"
        "def h():\n    try:\n        raise A\n        b() #!\n    finally:\n        c()\n",
        "def f():\n    return\n    yield\ndef g(a):\n    if a:\n        return 1\n    return 2\nh = lambda: 1\n",
    ),
    "duplicate-key": (
        "d = {'a': 1,\n     'b': 2,\n     'a': 3} #!\nf(x={1: {'z': 0}, 2: {'z': 0, 'z': 1}}) #!\n",
        "d = {'a': 1, 'b': {'a': 2}, b'a': 3, a: 4, **a}\ne = {1, 1}\ng = {1: 1, 1.0: 2, True: 3}\nh = {a: 1, a: 2}\n",
    ),
    "empty-fstring": (
        "a = f'text' #!\nb = f'{{}}' #!\nc = F'\\N{DOLLAR SIGN}' #!\n",
        "a = f'{x}' 'b' f'c'\nb = f'{x:>10}'\nc = 'f'\nd = f'{{{x}}}'\n",
    ),
    "assert-tuple": (
        "assert (x, 'message') #!\nif y: assert (x, #!\n    'message')\n",
        "assert x, 'message'\nassert (x), (1, 2)\nassert (x, y)[0]\nassert (a and b)\nassert f(x, y)\n",
    ),
    "unused-import": (
        "import os #!\nimport a.b as c #!\nfrom x import (y,\n    z) #!\nprint(y)\n",
        "from __future__ import annotations\nimport os.path\nfrom x import y, z as z, w\nimport q  # noqa: F401\n"
        "from ._native import fast\ntry:\n    import ssl\nexcept ImportError:\n    pass\n"
        "def f(a: 'y'):\n    return os, getattr(a, 'w')\n",
    ),
    "unused-variable": (
        "def f():\n    a = 1 #!\n    def g():\n        b = 2 #!\n    return g\n"
        "class C:\n    def m(self):\n        c = d() #!\n",
        "x = 1\ndef f(self):\n    a = 1\n    _b = 2\n    c, d = a\n    for e in c: pass\n"
        "    with g() as h:\n        i = j()\n"
        "    def k():\n        nonlocal n\n        n = 1\n    n = 2\n    return lambda: k\ndef l():\n    a = 1\n"
        "    return locals()\n",
    ),
    "shadowed-builtin": (
        "def f(a, list): #!\n    pass\nclass C:\n    def m(self, *, max=1): #!\n        pass\n"
        "@d\n@e(1)\ndef g(*str): #!\n    pass\n",
        "def f(items, id, a=list):\n    max = 1\n    return max\n",
    ),
    "missing-docstring": (
        "'''Module.'''\ndef f(): #!\n    pass\nclass C: #!\n    def m(self): return 1 #!\n"
        "@d\nasync def g( #!\n    a: dict = {1: 2},\n):\n    # 'comment'\n    return 'text'\n",
        "'''Module.'''\ndef f():\n    '''Text.'''\nclass C:\n    r'''Text.'''\n    def _m(self): pass\n    @x.setter\n"
        "    def x(self, v): pass\ndef _g(): pass\ndef h(): 'Text.'; return 1\n",
    ),
    "long-function": (
        "def f(): #!\n" + "    a()\n" * 120,
        "def f():\n" + "    a()\n" * 119 + "def g():\n" + "    a()\n" * 100,
    ),
    "complex-function": (
        "def f(a): #!\n" + "    if a and b or c: pass\n" * 7,
        "def f(a):\n" + "    if a and b or c: pass\n" * 6 + "    def g():\n" + "        if a and b: pass\n" * 6,
    ),
    "deep-nesting": (
        "def f(): #!\n" + "".join("    " * n + "if a:\n" for n in range(1, 8)) + "    " * 8 + "b()\n",
        "def f():\n    if a: pass\n" + "    elif a:\n        b()\n" * 9 + "".join(
            "    " * n + "if a:\n" for n in range(1, 7)
        ) + "    " * 7 + "b()\n",
    ),
    "many-arguments": (
        "def f(a, b, c, d, e, /, f, g, *h, i=1, j=[2, 3], **k): #!\n    pass\n",
        "class C:\n    def f(self, a, b, c, d, e, f, g, *, h, i, j=(1, 2)): pass\n",
    ),
}  # fmt: skip
#: Rules about a whole file, tested one by one below.
FILE_RULES = {"unreadable", "encoding-error", "syntax-error", "too-large"}


def write(root: Path, path: str, text: str | bytes) -> str:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def found_in(root: Path, path: str, rule: str = "") -> list[Finding]:
    survey = analysis.survey_file(str(root), path)
    findings = [survey.fault] if survey.fault is not None else []
    findings += analysis.measure_file(str(root), path).findings + analysis.inspect_file(str(root), path).findings
    return [item for item in findings if rule in ("", item.rule)]


def test_every_rule_has_a_case() -> None:
    assert RULES.keys() == CASES.keys() | FILE_RULES


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_finds_each_marked_line_and_the_second_look_confirms_it(rule: str, tmp_path: Path) -> None:
    text = CASES[rule][0]
    write(tmp_path, "code.py", text)
    marked = [number for number, line in enumerate(text.splitlines(), 1) if line.endswith("#!")]
    found = found_in(tmp_path, "code.py", rule)
    assert sorted(item.line for item in found) == marked
    assert all(item.severity == RULES[rule].severity for item in found)
    verdicts = second_look(str(tmp_path), "code.py", found)
    assert [verdict.seen for verdict in verdicts if not verdict.confirmed] == []


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_is_silent_on_code_that_only_looks_faulty(rule: str, tmp_path: Path) -> None:
    write(tmp_path, "code.py", CASES[rule][1])
    assert found_in(tmp_path, "code.py", rule) == []


@pytest.mark.parametrize("rule", CASES)
def test_the_second_look_disputes_findings_that_the_file_does_not_bear_out(rule: str, tmp_path: Path) -> None:
    write(tmp_path, "code.py", CASES[rule][0])
    found = found_in(tmp_path, "code.py", rule)
    write(tmp_path, "code.py", "'''Nothing here.'''\n\n\ndef f(): '''Neither here.'''\n" + "x = 1\n" * 300)
    verdicts = second_look(str(tmp_path), "code.py", found)
    assert [verdict.confirmed for verdict in verdicts] == [False] * len(found)
    assert all(verdict.seen for verdict in verdicts)


@pytest.mark.parametrize(
    ("text", "rule", "line"),
    [
        ("a = 1\nif a\n", "syntax-error", 2),
        ("(" * 5000, "syntax-error", 1),
        (b"a = 1\nb = '\xff'\n", "encoding-error", 2),
        (b"# coding: klingon\n", "encoding-error", 1),
        (b"#" * (source.MAX_SOURCE_BYTES + 1), "too-large", 1),
    ],
    ids=["syntax", "nesting", "bytes", "coding", "size"],
)
def test_a_file_that_cannot_be_parsed_is_one_finding(text: str | bytes, rule: str, line: int, tmp_path: Path) -> None:
    write(tmp_path, "code.py", text)
    found = found_in(tmp_path, "code.py")
    assert [item.rule for item in found] == [rule]
    assert found[0].line == line or "(" in str(text)
    assert second_look(str(tmp_path), "code.py", found)[0].confirmed


def test_a_file_that_is_gone_is_one_finding(tmp_path: Path) -> None:
    assert [item.rule for item in found_in(tmp_path, "gone.py")] == ["unreadable"]
    write(tmp_path, "gone.py", "")
    claim = finding("gone.py", 1, "unreadable", "cannot be read")
    assert not second_look(str(tmp_path), "gone.py", [claim])[0].confirmed


def test_warnings_about_the_reviewed_code_reach_nobody(tmp_path: Path) -> None:
    write(tmp_path, "code.py", "a = '\\d'\nassert (a, 1)\nb = a is 1\n")
    found = found_in(tmp_path, "code.py")  # pytest turns warnings into errors
    assert {item.rule for item in found} == {"assert-tuple", "is-literal", "missing-docstring"}


def test_a_survey_counts_lines_tokens_and_imports(tmp_path: Path) -> None:
    write(tmp_path, "code.py", "# comment\nimport a.b, c as d\nfrom e.f import g, h\n\nx = 1  # two\n")
    survey = analysis.survey_file(str(tmp_path), "code.py")
    assert (survey.lines, survey.code_lines, survey.comment_lines) == (5, 3, 2)
    assert survey.imports == ("a", "c", "e")
    assert survey.tokens > 20


def test_functions_are_measured_without_what_is_nested_in_them(tmp_path: Path) -> None:
    text = (
        "class C:\n"
        "    def m(self, a, *b):\n"
        "        for x in a:\n"
        "            if x and b:\n"
        "                return [y for y in x if y]\n"
        "        def inner():\n"
        "            while a:\n"
        "                pass\n"
        "        match a:\n"
        "            case 1 if b:\n"
        "                pass\n"
    )
    write(tmp_path, "code.py", text)
    look = analysis.measure_file(str(tmp_path), "code.py")
    assert [(f.name, f.line, f.length, f.complexity, f.nesting, f.arguments) for f in look.worst] == [
        ("C.m", 2, 10, 8, 2, 2),
        ("C.m.inner", 6, 3, 2, 1, 0),
    ]
    assert (look.functions, look.complexity) == (2, 10)


def test_tests_owe_no_docstrings_and_may_compare_a_thing_with_itself(tmp_path: Path) -> None:
    for path in ("tests/code.py", "test_code.py", "pkg/test/a/code.py"):
        write(tmp_path, path, "def f(x):\n    assert x == x\n")
        assert found_in(tmp_path, path) == []
    write(tmp_path, "contest.py", "def f(x):\n    assert x == x\n")
    assert [item.rule for item in found_in(tmp_path, "contest.py")] == [
        "missing-docstring", "missing-docstring", "self-comparison"
    ]  # fmt: skip


def test_a_tree_is_listed_without_hidden_installed_and_linked_folders(tmp_path: Path) -> None:
    for path in ("a.py", "b/c.py", "b/d.txt", "site-packages/e.py", ".git/f.py", "__pycache__/g.py"):
        write(tmp_path, path, "1\n")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert list(analysis.list_tree(str(tmp_path))) == [("a.py", 2), ("b/c.py", 2)]


@pytest.mark.parametrize(
    "text",
    ["x = a" + ".b" * 2000 + " == 1\n", "x = " + "a + " * 3000 + "1\n", "x = " + "lambda: " * 80 + "1\n"],
    ids=["attributes", "operators", "lambdas"],
)
def test_deep_expressions_break_no_look(text: str, tmp_path: Path) -> None:
    write(tmp_path, "code.py", text)
    found = found_in(tmp_path, "code.py")
    assert {item.rule for item in found} <= {"missing-docstring", "syntax-error"}
    assert all(verdict.confirmed for verdict in second_look(str(tmp_path), "code.py", found))
