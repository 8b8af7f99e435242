"""Small line plots as SVG, made by hand: one panel for each table, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

PANEL_WIDTH, PANEL_HEIGHT = 360, 260
LEFT, RIGHT, TOP, BOTTOM = 66, 16, 34, 44
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37")


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot. lines: (name, values), as many values as there are labels; all above 0."""

    title: str
    x_title: str
    labels: Sequence[str]
    lines: Sequence[tuple[str, Sequence[float]]]


def svg(panels: Sequence[Panel], columns: int = 2) -> str:
    """A page of panels."""
    rows = -(-len(panels) // columns)
    width, height = columns * PANEL_WIDTH, rows * PANEL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        x, y = number % columns * PANEL_WIDTH, number // columns * PANEL_HEIGHT
        parts += [f'<g transform="translate({x},{y})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> list[str]:
    values = [value for _, line in panel.lines for value in line]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    wide, tall = PANEL_WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM
    step = wide / max(len(panel.labels) - 1, 1)

    def y_of(value: float) -> float:
        return TOP + tall * (1 - (math.log10(value) - low) / (high - low))

    parts = [f'<text x="{LEFT}" y="18" font-weight="bold">{escape(panel.title)}</text>']
    for power in range(low, high + 1):
        y = y_of(10.0**power)
        parts.append(
            f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:,g}</text>'
        )
    for number, label in enumerate(panel.labels):
        x = LEFT + number * step
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + tall + 16}" text-anchor="middle">{escape(label)}</text>'
        )
    middle = LEFT + wide / 2
    parts.append(
        f'<text x="{middle}" y="{PANEL_HEIGHT - 10}" text-anchor="middle" fill="#57606a">'
        f"{escape(panel.x_title)}</text>"
    )
    for (name, line), colour, number in zip(panel.lines, COLOURS, range(9), strict=False):
        points = " ".join(f"{LEFT + n * step:.1f},{y_of(v):.1f}" for n, v in enumerate(line))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{LEFT + wide - 4}" y="{TOP + 12 + 14 * number}" text-anchor="end" '
            f'fill="{colour}">{escape(name)}</text>'
        )
        parts += [
            f'<circle cx="{LEFT + n * step:.1f}" cy="{y_of(v):.1f}" r="3" fill="{colour}"/>'
            for n, v in enumerate(line)
        ]
    return parts
