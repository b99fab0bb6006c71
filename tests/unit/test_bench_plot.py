"""The soak run's plot."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from swell.bench.plot import HEIGHT, LEFT, TOP, WIDTH, Panel, plot


def test_points_are_drawn_to_scale_and_marks_are_named(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    plot(
        [Panel("a & b", {"x": [(0, 0), (10, 5)], "y": [(5, 2.5)]}), Panel("none", {"z": []})], [(5, "kill <it>")], path
    )
    root = ElementTree.parse(path).getroot()
    lines = [line.get("points") for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert lines == [
        f"{LEFT:.1f},{TOP + HEIGHT:.1f} {LEFT + WIDTH:.1f},{TOP:.1f}",
        f"{LEFT + WIDTH / 2:.1f},{TOP + HEIGHT / 2:.1f}",
        "",
    ]
    assert [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")] == ["kill <it> at 5 s"]
