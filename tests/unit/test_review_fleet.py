"""The agents of the review example, run in this process: what they say to each other, and what survives a restart."""

import asyncio
import json
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import pytest

from examples.review import analysis, report
from examples.review.app import app
from examples.review.findings import Finding, finding
from examples.review.journal import Began, Heard, Journal, Line
from examples.review.messages import Job, Listing, Reviewed, Status, Surveyed, crew_sizes
from examples.review.worklist import MAX_TRIES, PATIENCE_S, UNIT_FILES, Worklist
from swell.codec import encode
from swell.wire import PlanProgress


def write(place: Path, text: str | bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text if isinstance(text, bytes) else text.encode())


def survey_of(path: str, fault: Finding | None = None) -> analysis.Survey:
    return analysis.Survey(path, fault=fault)


def result(unit: int, role: Any, *paths: str) -> Reviewed:
    return Reviewed(unit, role, "a/1", [analysis.Look(path) for path in paths], [[] for _ in paths])


def worklist_of(*paths: str, window: int = 4) -> Worklist:
    work = Worklist(window)
    work.listed(Listing("", files=[analysis.Entry(path, 100) for path in paths]))
    return work


def test_a_file_is_finished_when_it_was_read_and_both_roles_have_looked() -> None:
    work = worklist_of("a.py")
    (unit,) = work.send_out(0.0)
    assert work.reviewed(result(unit.number, "tester", "a.py"), 1.5) == [0]
    assert work.reviewed(result(unit.number, "analyst", "a.py"), 2.0) == [0]
    assert not work.complete
    assert len(work.surveyed(Surveyed(unit.number, [survey_of("a.py")], 1))) == 1
    assert work.complete
    assert work.latencies_s == [1.5, 2.0]


def test_a_file_that_does_not_parse_is_finished_by_its_researcher_alone() -> None:
    work = worklist_of("a.py")
    (unit,) = work.send_out(0.0)
    work.surveyed(Surveyed(unit.number, [survey_of("a.py", finding("a.py", 1, "syntax-error", "no"))], 1))
    work.reviewed(result(unit.number, "researcher", "a.py"), 1.0)
    assert work.complete


def test_what_comes_twice_counts_once() -> None:
    work = worklist_of("a.py")
    (unit,) = work.send_out(0.0)
    survey = Surveyed(unit.number, [survey_of("a.py")], 1)
    assert not work.listed(Listing("", files=[analysis.Entry("b.py", 1)]))
    for role in ("analyst", "tester"):
        assert work.reviewed(result(unit.number, role, "a.py"), 1.0) == [0]
        assert work.reviewed(result(unit.number, role, "a.py"), 1.0) == []
    assert (len(work.surveyed(survey)), len(work.surveyed(survey))) == (1, 0)
    assert (work.files, work.finished, work.duplicates) == (1, 1, 4)


def test_the_window_bounds_the_units_under_way() -> None:
    work = worklist_of(*(f"{n}.py" for n in range(5 * UNIT_FILES)), window=2)
    units = work.send_out(0.0)
    assert [len(unit.paths) for unit in units] == [UNIT_FILES, UNIT_FILES]
    assert work.send_out(1.0) == []
    work.surveyed(Surveyed(0, [survey_of(path) for path in units[0].paths], 1))
    work.reviewed(result(0, "analyst", *units[0].paths), 1.0)
    work.reviewed(result(0, "tester", *units[0].paths), 1.0)
    assert [unit.number for unit in work.send_out(1.0)] == [2]


def test_overdue_units_are_sent_again_file_by_file_and_given_up_in_the_end() -> None:
    work = worklist_of("a.py", "b.py")
    now = 0.0
    assert [unit.paths for unit in work.send_out(now)] == [["a.py", "b.py"]]
    work.surveyed(Surveyed(0, [survey_of("b.py")], 1))
    for _ in range(MAX_TRIES - 1):
        assert work.send_out(now + PATIENCE_S) == []
        now += PATIENCE_S + 1
        assert [unit.paths for unit in work.send_out(now)] == [["a.py"], ["b.py"]]
    last = work.units - 1
    work.reviewed(result(last, "analyst", "b.py"), now)
    work.reviewed(result(last, "tester", "b.py"), now)
    assert work.send_out(now + PATIENCE_S + 1) == []
    assert work.complete
    assert work.unfinished == {"a.py"}


def test_a_journal_leaves_out_a_last_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal"
    journal = Journal(path)
    lines: list[Line] = [Began(1.5), Heard(listing=Listing("", ["a"], [analysis.Entry("b.py", 3)], sent=2))]
    for line in lines:
        journal.add(line)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"type":"Hea')
    assert list(Journal(path).lines()) == lines
    assert path.read_bytes() == whole


def test_crews_add_up_and_always_have_two_to_cross_check() -> None:
    for agents in (9, 10, 50, 400, 1001):
        sizes = crew_sizes(agents)
        assert sum(sizes.values()) == agents - 1
        assert min(sizes["analyst"], sizes["tester"]) >= 2
    with pytest.raises(ValueError, match="at least 9"):
        crew_sizes(8)


class _Plan:
    """A plan that has started all its agents at once."""

    def __init__(self, id: str, type: str, keys: list[str], wave_size: int) -> None:
        waves = -(-len(keys) // wave_size)
        self.progress = PlanProgress(id, type, "done", len(keys), waves, waves, len(keys))

    async def __aiter__(self) -> Any:
        yield self.progress

    async def wait(self) -> PlanProgress:
        return self.progress


class Loopback:
    """Routes what agents of the app say to each other within this process, through the bytes they would send.

    Attributes:
        repeat: names of messages that are delivered twice, as after a crash.
    """

    def __init__(self, repeat: frozenset[str] = frozenset()) -> None:
        self.agents: dict[str, Any] = {}
        self.queue: deque[tuple[str, str, bytes]] = deque()
        self.handled: list[tuple[str, str]] = []
        self.repeat = repeat

    async def start(self, id: str, args: Any) -> None:
        kind = app.types[id.partition("/")[0]]
        agent = kind.cls()
        agent.id = id
        agent._client = self  # type: ignore[assignment]
        assert kind.decode_args is not None
        self.agents[id] = agent
        await agent.started(kind.decode_args(encode(args)))  # type: ignore[call-arg]

    async def spawn(self, type: str, *, id: str, keys: list[str], wave_size: int, args: Any, **_: Any) -> _Plan:
        for key in keys:
            await self.start(f"{type}/{key}", args)
        return _Plan(id, type, keys, wave_size)

    async def send(self, to: str, name: str, body: Any = None, **_: Any) -> None:
        await self.send_many([(to, name, body)])

    async def send_many(self, messages: Any, **_: Any) -> int:
        listed = [(to, name, encode(body)) for to, name, body in messages]
        for message in listed:
            self.queue.extend([message] * (2 if message[1] in self.repeat else 1))
        return len(listed)

    async def ask(
        self, to: str, name: str, body: Any = None, type: Any = Any, *, sender: str = "", **_: float | None
    ) -> Any:
        assert to != sender
        return msgspec.msgpack.decode(encode(await self.handle(to, name, encode(body))), type=type)

    async def handle(self, to: str, name: str, body: bytes) -> Any:
        self.handled.append((to, name))
        handler = app.types[to.partition("/")[0]].handlers[name]
        arguments = (handler.decode(body),) if handler.takes_body else ()
        return await handler.function(self.agents[to], *arguments)

    async def drain(self, limit: int = 10**6) -> None:
        while self.queue and limit:
            await self.handle(*self.queue.popleft())
            limit -= 1


FAULTY: dict[str, str | bytes] = {
    "pkg/good.py": '"""Good."""\n\n\ndef f(x: int) -> int:\n    """Add one."""\n    return x + 1\n',
    "pkg/bad.py": '"""Bad."""\nimport os\n\n\ndef f(x=[]):\n    """Do."""\n    return x is 1\n',
    "pkg/deep/broken.py": "def f(:\n",
    "pkg/deep/latin.py": b"a = '\xe9'\n",
    "empty.py": "",
}
FOUND = {
    ("pkg/bad.py", 2, "unused-import"),
    ("pkg/bad.py", 5, "mutable-default"),
    ("pkg/bad.py", 7, "is-literal"),
    ("pkg/deep/broken.py", 1, "syntax-error"),
    ("pkg/deep/latin.py", 1, "encoding-error"),
}


def faulty_tree(tmp_path: Path) -> Job:
    for path, text in FAULTY.items():
        write(tmp_path / "tree" / path, text)
    return Job("run", str(tmp_path / "tree"), str(tmp_path / "out"), agents=20, wave_size=2)


def reported(job: Job) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(job.out, "report.json").read_text())
    return loaded


def reported_page(job: Job) -> str:
    return Path(job.out, "report.md").read_text()


def names_in(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


async def test_the_fleet_reports_the_known_faults_of_a_tree_each_confirmed_by_another_agent(tmp_path: Path) -> None:
    job = faulty_tree(tmp_path)
    fleet = Loopback()
    await fleet.start("coordinator/run", job)
    await fleet.send("coordinator/run", "recruit")
    await fleet.drain()
    status: Status = await fleet.ask("coordinator/run", "status", None, Status)
    assert (status.state, status.files, status.finished, status.folders) == ("done", 5, 5, 3)
    data = reported(job)
    assert {(item["path"], item["line"], item["rule"]) for item in data["findings"]} == FOUND
    assert data["totals"]["confirmed"] == len(FOUND)
    assert data["fleet"]["agents"] == 20
    assert data["fleet"]["success_ratio"] == 1.0
    assert data["worst_files"][0]["path"] == "pkg/bad.py"
    handled_by_fleet = [name for _, name in fleet.handled if name not in ("status", "summary")]
    # What agents sent each other is all that was handled, but for the command's first message.
    assert data["fleet"]["messages"] == len(handled_by_fleet) - 1
    assert "| `pkg/bad.py` | 30 | 1 | 2 | 0 | 7 |" in reported_page(job)
    done = await fleet.ask("coordinator/run", "summary", None, report.Report)
    assert done.rules["is-literal"].confirmed == 1


async def test_messages_delivered_twice_change_no_figure_but_their_own(tmp_path: Path) -> None:
    job = faulty_tree(tmp_path)
    names = {"recruit", "explore", "listed", "read", "surveyed", "measure", "inspect", "review", "reviewed"}
    fleet = Loopback(frozenset(names))
    await fleet.start("coordinator/run", job)
    await fleet.send("coordinator/run", "recruit")
    await fleet.drain()
    data = reported(job)
    assert {(item["path"], item["line"], item["rule"]) for item in data["findings"]} == FOUND
    assert (data["totals"]["findings"], data["totals"]["files"]) == (len(FOUND), 5)
    assert data["fleet"]["duplicates"] > 0


@pytest.mark.parametrize("handled", range(1, 40, 3))
async def test_a_coordinator_started_anew_goes_on_with_the_run(handled: int, tmp_path: Path) -> None:
    job = faulty_tree(tmp_path)
    fleet = Loopback()
    await fleet.start("coordinator/run", job)
    await fleet.send("coordinator/run", "recruit")
    await fleet.drain(handled)
    await fleet.start("coordinator/run", job)
    for _ in range(3):
        await fleet.ask("coordinator/run", "status", None, Status)
        await fleet.drain()
    data = reported(job)
    assert {(item["path"], item["line"], item["rule"]) for item in data["findings"]} == FOUND
    assert data["totals"]["findings"] == len(FOUND)
    await fleet.agents["coordinator/run"].stopped()
    assert names_in(job.out) == ["report.json", "report.md"]


async def test_a_finding_that_no_longer_holds_is_reported_as_disputed(tmp_path: Path) -> None:
    job = faulty_tree(tmp_path)
    fleet = Loopback()
    await fleet.start("coordinator/run", job)
    await fleet.send("coordinator/run", "recruit")
    while not any(name == "review" and b"is-literal" in body for _, name, body in fleet.queue):
        await fleet.drain(1)
    write(tmp_path / "tree/pkg/bad.py", FAULTY["pkg/good.py"])
    await fleet.drain()
    data = reported(job)
    assert {item["finding"]["rule"] for item in data["disputed"]} >= {"unused-import", "is-literal"}
    assert all(item["path"] != "pkg/bad.py" for item in data["findings"])


async def test_a_tree_that_cannot_be_listed_fails_the_run_with_the_reason(tmp_path: Path) -> None:
    fleet = Loopback()
    await fleet.start("coordinator/run", Job("run", str(tmp_path / "none"), str(tmp_path / "out"), 9, 5))
    await fleet.send("coordinator/run", "recruit")
    await asyncio.wait_for(fleet.drain(), 10)
    status: Status = await fleet.ask("coordinator/run", "status", None, Status)
    assert status.state == "failed"
    assert "No such file or directory" in status.reason
