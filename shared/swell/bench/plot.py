"""Lines over time as an SVG file, without a plotting library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from swell.histogram import upper_us

if TYPE_CHECKING:
    from swell.bench.result import Result

WIDTH, HEIGHT, LEFT, TOP, GAP = 900, 160, 90, 30, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")


@dataclass
class Panel:
    """One set of axes.

    Attributes:
        title: with the unit.
        lines: name -> (seconds, value) points, in order.
    """

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def plot(panels: Sequence[Panel], marks: Sequence[tuple[float, str]], path: Path, unit: str = "s") -> None:
    """Draw panels below each other; each mark is a thin line through all of them, named when pointed at.

    Args:
        panels: from the top.
        marks: places on the axis, with their names.
        path: of the SVG file.
        unit: of the axis.
    """
    end = max([x for panel in panels for line in panel.lines.values() for x, _ in line] + [1.0])
    height = TOP + len(panels) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEFT + 180} {height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for seconds, name in marks:
        x = LEFT + seconds / end * WIDTH
        parts.append(
            f'<path d="M{x:.1f},{TOP}V{height - GAP}" stroke="#bbb" stroke-width="1">'
            f"<title>{escape(name)} at {seconds:.0f} s</title></path>"
        )
    for number, panel in enumerate(panels):
        parts += _panel(panel, TOP + number * (HEIGHT + GAP), end, unit)
    path.write_text("\n".join([*parts, "</svg>\n"]))


def _panel(panel: Panel, top: int, end: float, unit: str) -> list[str]:
    most = max([y for line in panel.lines.values() for _, y in line] + [1e-9])
    bottom = top + HEIGHT
    parts = [
        f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{escape(panel.title)}</text>',
        f'<path d="M{LEFT},{top}V{bottom}H{LEFT + WIDTH}" fill="none" stroke="black"/>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:,.4g}</text>',
        f'<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">0</text>',
        f'<text x="{LEFT + WIDTH}" y="{bottom + 15}" text-anchor="end">{end:,.0f} {unit}</text>',
    ]
    for number, (name, line) in enumerate(panel.lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{LEFT + x / end * WIDTH:.1f},{bottom - y / most * HEIGHT:.1f}" for x, y in line)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
        if len(panel.lines) > 1 and number < HEIGHT // 14:
            y = top + 12 + number * 14
            parts.append(f'<text x="{LEFT + WIDTH + 10}" y="{y}" fill="{colour}">{escape(name)}</text>')
    return parts


def plot_result(result: Result, path: Path) -> None:
    """Draw what a part of `swell bench` found: the course over time of a soak, else its histogram."""
    rows = result.rows
    if result.part == "soak" and rows:
        latency = {name: [(r["second"], r[name]) for r in rows] for name in ("p50_ms", "p95_ms", "p99_ms")}
        names = sorted({name for r in rows for name in r["memory_mib"]})
        memory = {name: [(r["second"], r["memory_mib"].get(name, 0.0)) for r in rows] for name in names}
        rate = {"achieved": [(r["second"], r["achieved_per_s"]) for r in rows]}
        plot([Panel("messages/s", rate), Panel("latency, ms", latency), Panel("memory, MiB", memory)], (), path)
        return
    total = max(sum(result.buckets.values()), 1)
    share, points = 0, [(0.0, 0.0)]
    for bucket, count in sorted(result.buckets.items()):
        share += count
        points.append((100 * share / total, upper_us(bucket) / 1000))
    plot([Panel("latency, ms, of so many per cent of the messages", {result.part: points})], (), path, unit="%")
