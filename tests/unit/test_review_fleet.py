"""The agents of the review example, run in this process: what they ask of each other, and what survives a crash."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import convert

from examples.review import report, roles
from examples.review.analysis import Entry, Look, inspect_file
from examples.review.app import app
from examples.review.coordinator import UNIT_BYTES, UNIT_FILES, units_of
from examples.review.messages import Job, Status, crew_sizes
from swell import HandlerFailed
from swell.testing import Fleet, fleet_test


def write(place: Path, text: str | bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_units_hold_few_files_and_bytes_and_each_file_once() -> None:
    sizes = [1] * (2 * UNIT_FILES + 1) + [UNIT_BYTES - 1, 1, 1, 10 * UNIT_BYTES, 1]
    files = [Entry(f"{number}.py", size) for number, size in enumerate(sizes)]
    units = list(units_of(files))
    assert [path for unit in units for path in unit] == [file.path for file in files]
    assert [len(unit) for unit in units] == [UNIT_FILES, UNIT_FILES, 2, 2, 1, 1]
    assert list(units_of([])) == []


def test_crews_add_up_and_each_has_an_agent() -> None:
    for agents in (9, 10, 50, 400, 1001):
        sizes = crew_sizes(agents)
        assert sum(sizes.values()) == agents - 1
        assert min(sizes.values()) >= 1
    with pytest.raises(ValueError, match="at least 9"):
        crew_sizes(8)


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


async def reviewed(fleet: Fleet, job: Job) -> report.Report:
    await fleet.spawn("coordinator", keys=[job.run])
    done: report.Report = await fleet.client.run("coordinator", "review", job, report.Report, timeout=3000)
    return done


@fleet_test(app)
async def test_the_fleet_reports_the_known_faults_of_a_tree_each_confirmed_by_another_agent(
    fleet: Fleet, tmp_path: Path
) -> None:
    job = faulty_tree(tmp_path)
    await fleet.spawn("coordinator", keys=[job.run])
    task = await fleet.client.submit("coordinator", "review", job, timeout=3000)
    told = [convert(part, Status) async for part in task]
    done: report.Report = await task.result(report.Report)
    assert (told[-1].files, told[-1].finished, told[-1].findings) == (5, 5, len(FOUND))
    data = reported(job)
    assert {(item["path"], item["line"], item["rule"]) for item in data["findings"]} == FOUND
    assert data["totals"]["confirmed"] == len(FOUND)
    assert data["fleet"]["agents"] == 20
    assert data["fleet"]["success_ratio"] == 1.0
    assert data["fleet"]["asks"]["count"] > 0
    assert data["worst_files"][0]["path"] == "pkg/bad.py"
    # Each task that ended is counted once, but for the coordinator's own.
    assert done.fleet.tasks == len(await fleet.client.tasks("done")) - 1
    assert "| `pkg/bad.py` | 30 | 1 | 2 | 0 | 7 |" in reported_page(job)
    assert done.rules["is-literal"].confirmed == 1
    assert names_in(job.out) == ["report.json", "report.md"]


@fleet_test(app, workers=3)
async def test_workers_that_are_killed_cost_the_report_nothing(fleet: Fleet, tmp_path: Path) -> None:
    job = faulty_tree(tmp_path)
    await fleet.spawn("coordinator", keys=[job.run])
    task = await fleet.client.submit("coordinator", "review", job, timeout=3000)
    async for part in task:
        if convert(part, Status).files and len(fleet.workers) > 1:
            await fleet.kill_worker()
    assert len(fleet.workers) == 1
    done: report.Report = await task.result(report.Report)
    data = reported(job)
    assert {(item["path"], item["line"], item["rule"]) for item in data["findings"]} == FOUND
    assert (done.totals.findings, done.totals.reviewed) == (len(FOUND), 5)


@fleet_test(app, workers=2)
async def test_a_coordinator_that_dies_is_begun_anew_and_does_no_unit_twice(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = faulty_tree(tmp_path)
    await reviewed(fleet, job)
    before = {one.id for one in await fleet.client.tasks("done")}
    await fleet.client.terminate("coordinator/run")
    again = Job("run", job.root, str(tmp_path / "again"), job.agents, job.wave_size)
    await fleet.spawn("coordinator", keys=["another"])
    await fleet.client.run("coordinator", "review", again, report.Report, timeout=3000)
    # Only the coordinator's own task is new: of all others the results were there.
    assert len({one.id for one in await fleet.client.tasks("done")} - before) == 1
    assert reported(again)["findings"] == reported(job)["findings"]


@fleet_test(app)
async def test_a_unit_that_fails_is_tried_file_by_file_and_what_still_fails_is_named(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = faulty_tree(tmp_path)

    def inspect_or_fail(root: str, path: str) -> Look:
        if path == "pkg/good.py":
            raise RuntimeError("cannot")
        return inspect_file(root, path)

    monkeypatch.setattr(roles, "inspect_file", inspect_or_fail)
    done = await reviewed(fleet, job)
    assert done.unfinished == ["pkg/good.py"]
    assert (done.totals.files, done.totals.reviewed, done.fleet.retried) == (5, 4, 1)
    assert {(item["path"], item["line"], item["rule"]) for item in reported(job)["findings"]} == FOUND


@fleet_test(app)
async def test_a_finding_that_no_longer_holds_is_reported_as_disputed(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = faulty_tree(tmp_path)

    def inspect_then_mend(root: str, path: str) -> Look:
        found = inspect_file(root, path)
        if path == "pkg/bad.py":
            write(tmp_path / "tree" / path, FAULTY["pkg/good.py"])
        return found

    monkeypatch.setattr(roles, "inspect_file", inspect_then_mend)
    await reviewed(fleet, job)
    data = reported(job)
    assert {item["finding"]["rule"] for item in data["disputed"]} >= {"unused-import", "is-literal"}
    assert all(item["path"] != "pkg/bad.py" for item in data["findings"])


@fleet_test(app)
async def test_a_tree_that_cannot_be_listed_fails_the_run_with_the_reason(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(HandlerFailed, match=r"the tree cannot be listed: .*No such file or directory"):
        await reviewed(fleet, Job("run", str(tmp_path / "none"), str(tmp_path / "out"), 9, 5))


@fleet_test(app)
async def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_is_reviewed(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = faulty_tree(tmp_path)
    scandir = os.scandir

    def scandir_or_fail(path: Any) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_or_fail)
    done = await reviewed(fleet, job)
    (line,) = done.unfinished
    assert "pkg/deep: Permission denied" in line
    assert done.totals.reviewed == 3
