"""What users install."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_only_names_that_begin_with_swell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.startswith("swell")} == set()
    assert {"swell", "swell_manager", "swell_worker", "swell_metrics"} <= top
    assert "swell/py.typed" in names
    assert {f"swell/bus/functions/{part}.lua" for part in ("append", "acquire", "settle")} <= set(names)
