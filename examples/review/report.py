"""From the results of tasks to `report.json` and `report.md`. Every figure is counted or measured."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from examples.review.analysis import WORST_FUNCTIONS, Look, Survey
from examples.review.findings import RULES, WEIGHT, Finding, Function, Severity, Verdict

WORST_FILES = 20
TOP_IMPORTS = 15


class Totals(Struct):
    """Sums over the tree. `omitted` findings were counted and not kept; see `findings.MAX_FINDINGS`."""

    files: int = 0
    reviewed: int = 0
    faulty: int = 0
    lines: int = 0
    code_lines: int = 0
    comment_lines: int = 0
    tokens: int = 0
    functions: int = 0
    complexity: int = 0
    findings: int = 0
    confirmed: int = 0
    disputed: int = 0
    omitted: int = 0


class RuleCount(Struct):
    """How often one rule was found."""

    severity: Severity
    meaning: str
    confirmed: int = 0
    disputed: int = 0


class WorstFile(Struct):
    """A file with its score: 20 for each confirmed error, 5 for each warning, nothing for notes."""

    path: str
    score: int
    errors: int
    warnings: int
    notes: int
    lines: int


class Disputed(Struct):
    """A finding that the second look does not share."""

    finding: Finding
    seen: str


class CrewFigures(Struct):
    """How one type of agents was spawned."""

    type: str
    agents: int
    waves: int
    seconds: float
    ready_p95_ms: float


class Latency(Struct):
    """A distribution, milliseconds."""

    count: int = 0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    max_ms: float = 0.0


class FleetFigures(Struct):
    """What the fleet did.

    Attributes:
        tasks: tasks that agents submitted and had a result of.
        results: from submitting a unit to its result.
        asks: from submitting the check of findings to its result.
        retried: units that failed, and were tried again file by file.
        success_ratio: files reviewed / files found.
    """

    agents: int
    crews: list[CrewFigures]
    seconds: float
    units: int
    tasks: int
    results: Latency
    asks: Latency
    retried: int
    success_ratio: float


class Report(Struct):
    """Everything but the single findings."""

    tree: str
    python: str
    totals: Totals
    rules: dict[str, RuleCount]
    worst_files: list[WorstFile]
    worst_functions: list[Function]
    disputed: list[Disputed]
    unfinished: list[str]
    imports: dict[str, int]
    fleet: FleetFigures


class Tally:
    """Gathers surveys and looks, each given once, in any order."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.confirmed: list[Finding] = []
        self.disputed: list[Disputed] = []
        self._functions: list[Function] = []
        self._lines: dict[str, int] = {}
        self._imports: Counter[str] = Counter()

    def surveyed(self, survey: Survey) -> None:
        """Add what a researcher read."""
        totals = self.totals
        totals.faulty += survey.fault is not None
        totals.lines += survey.lines
        totals.code_lines += survey.code_lines
        totals.comment_lines += survey.comment_lines
        totals.tokens += survey.tokens
        self._lines[survey.path] = survey.lines
        self._imports.update(survey.imports)

    def reviewed(self, look: Look, verdicts: Sequence[Verdict]) -> None:
        """Add what an analyst or tester found in a file, with the verdict on each finding."""
        totals = self.totals
        totals.functions += look.functions
        totals.complexity += look.complexity
        totals.omitted += look.omitted
        totals.findings += len(look.findings)
        self._functions.extend(look.worst)
        for found, verdict in zip(look.findings, verdicts, strict=True):
            if verdict.confirmed:
                totals.confirmed += 1
                self.confirmed.append(found)
            else:
                totals.disputed += 1
                self.disputed.append(Disputed(found, verdict.seen))

    def report(self, tree: str, files: int, reviewed: int, unfinished: list[str], fleet: FleetFigures) -> Report:
        """The finished report."""
        totals = msgspec.structs.replace(self.totals, files=files, reviewed=reviewed)
        functions = sorted(self._functions, key=lambda item: (-item.complexity, item.path, item.line))
        return Report(
            tree=tree,
            python=platform.python_version(),
            totals=totals,
            rules=self._rules(),
            worst_files=self._worst_files(),
            worst_functions=functions[:WORST_FUNCTIONS],
            disputed=sorted(self.disputed, key=lambda item: item.finding),
            unfinished=unfinished,
            imports=dict(self._imports.most_common(TOP_IMPORTS)),
            fleet=fleet,
        )

    def _rules(self) -> dict[str, RuleCount]:
        confirmed = Counter(found.rule for found in self.confirmed)
        disputed = Counter(item.finding.rule for item in self.disputed)
        return {
            name: RuleCount(rule.severity, rule.meaning, confirmed[name], disputed[name])
            for name, rule in RULES.items()
            if confirmed[name] or disputed[name]
        }

    def _worst_files(self) -> list[WorstFile]:
        severities: dict[str, Counter[str]] = {}
        for found in self.confirmed:
            severities.setdefault(found.path, Counter())[found.severity] += 1
        files = [
            WorstFile(
                path=path,
                score=sum(WEIGHT[severity] * count for severity, count in counts.items()),
                errors=counts["error"],
                warnings=counts["warning"],
                notes=counts["info"],
                lines=self._lines.get(path, 0),
            )
            for path, counts in severities.items()
        ]
        files.sort(key=lambda item: (-item.score, item.path))
        return [item for item in files[:WORST_FILES] if item.score]


def latency(seconds: Sequence[float]) -> Latency:
    """The percentiles of measured times: each is one of the values measured."""
    if not seconds:
        return Latency()
    ranked = sorted(seconds)
    return Latency(
        count=len(ranked),
        p50_ms=_ms(ranked[_rank(len(ranked), 50)]),
        p95_ms=_ms(ranked[_rank(len(ranked), 95)]),
        max_ms=_ms(ranked[-1]),
    )


def write(out: Path, report: Report, confirmed: Sequence[Finding]) -> None:
    """Write `report.json` (with all confirmed findings) and `report.md` into a folder, each whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    data = {**msgspec.structs.asdict(report), "findings": sorted(confirmed)}
    _replace(out / "report.json", msgspec.json.format(msgspec.json.encode(data), indent=1))
    _replace(out / "report.md", markdown(report).encode())


def markdown(report: Report) -> str:
    """The report as a page to read."""
    totals, fleet = report.totals, report.fleet
    parts = [
        f"# Review of `{report.tree}`\n",
        f"{totals.reviewed:,} of {totals.files:,} files reviewed in {fleet.seconds:.1f} s by {fleet.agents:,} agents, "
        f"parsed as Python {report.python}. {totals.findings:,} findings: {totals.confirmed:,} confirmed by a second "
        f"agent, {totals.disputed:,} disputed.\n",
        "## Totals\n",
        _table(("what", "count"), [(name.replace("_", " "), f"{value:,}") for name, value in _fields(totals)]),
        "## By rule\n",
        _table(
            ("rule", "severity", "confirmed", "disputed", "meaning"),
            [
                (f"`{name}`", rule.severity, f"{rule.confirmed:,}", f"{rule.disputed:,}", rule.meaning)
                for name, rule in sorted(report.rules.items(), key=lambda item: -item[1].confirmed)
            ],
        ),
        "## Worst files\n",
        "Each confirmed error counts 20, each warning 5, notes nothing.\n",
        _table(
            ("file", "score", "errors", "warnings", "notes", "lines"),
            [(f"`{f.path}`", f.score, f.errors, f.warnings, f.notes, f.lines) for f in report.worst_files],
        ),
        "## Most complex functions\n",
        _table(
            ("function", "place", "complexity", "lines", "nesting", "arguments"),
            [
                (f"`{f.name}`", f"`{f.path}:{f.line}`", f.complexity, f.length, f.nesting, f.arguments)
                for f in report.worst_functions
            ],
        ),
        "## Disputed findings\n",
        _table(
            ("place", "rule", "the first look", "the second look"),
            [
                (f"`{item.finding.path}:{item.finding.line}`", item.finding.rule, item.finding.message, item.seen)
                for item in report.disputed
            ],
        ),
    ]
    if report.unfinished:
        parts += ["## Not reviewed\n", "".join(f"- `{path}`\n" for path in report.unfinished)]
    parts += ["## Most imported\n", _table(("module", "files"), list(report.imports.items()))]
    return "\n".join([*parts, *_fleet(fleet)])


def _fleet(fleet: FleetFigures) -> list[str]:
    return [
        "## What the fleet did\n",
        _table(
            ("type", "agents", "waves", "spawned in, s", "spawn to ready P95, ms"),
            [(c.type, c.agents, c.waves, f"{c.seconds:.2f}", f"{c.ready_p95_ms:.1f}") for c in fleet.crews],
        ),
        _table(
            ("measured", "count", "P50, ms", "P95, ms", "max, ms"),
            [
                (name, f"{item.count:,}", f"{item.p50_ms:,.1f}", f"{item.p95_ms:,.1f}", f"{item.max_ms:,.1f}")
                for name, item in (("unit to result", fleet.results), ("check to verdicts", fleet.asks))
            ],
        ),
        f"{fleet.tasks:,} tasks for {fleet.units:,} units of work; {fleet.retried:,} units were tried again file by "
        f"file; {fleet.success_ratio:.2%} of the files reviewed.\n",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return "None.\n"
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _fields(totals: Totals) -> list[tuple[str, int]]:
    return [(name, getattr(totals, name)) for name in totals.__struct_fields__]


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.replace(path)


def _rank(count: int, percent: int) -> int:
    """Index of the nearest-rank percentile: the least value that so many percent do not pass."""
    return -(-count * percent // 100) - 1


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
