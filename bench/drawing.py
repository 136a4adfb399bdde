"""Lines in panels, as SVG: how figures over time or over numbers of clients are drawn.

Owns: axes, ticks and legend. Pure: text in, text out. Invariant: every point of every series is drawn, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

COLOURS = ("#3d6b99", "#d98841", "#6f9e5c", "#8c6bb1", "#999999")
WIDTH, HEIGHT, COLUMNS = 380, 240, 3
LEFT, TOP, RIGHT, BOTTOM = 58, 34, 14, 30  # room around a panel's axes
HEAD, FOOT = 62, 26

Points = Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One pair of axes. ``dots``: few points, each marked. ``log``: the x axis is logarithmic, its ticks are the points themselves.

    ``highest`` is a value the y axis has to reach, so that panels can be compared.
    """

    title: str
    series: Mapping[str, Points]
    x_label: str = ""
    log: bool = False
    dots: bool = False
    highest: float = 0.0


def drawing(title: str, panels: Sequence[Panel], notes: Sequence[str]) -> str:
    """The panels in rows of three, one colour for each name of a series throughout."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    rows = -(-len(panels) // COLUMNS) or 1
    width = WIDTH * min(COLUMNS, max(1, len(panels)))
    height = HEAD + rows * HEIGHT + FOOT * max(1, len(notes))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15">{escape(title)}</text>',
        *_legend(names),
    ]
    for place, panel in enumerate(panels):
        parts.append(f'<g transform="translate({place % COLUMNS * WIDTH},{HEAD + place // COLUMNS * HEIGHT})">')
        parts += [*_panel(panel, names), "</g>"]
    for line, note in enumerate(notes):
        parts.append(f'<text x="12" y="{HEAD + rows * HEIGHT + 16 + line * 18}" fill="#666">{escape(note)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(names: Sequence[str]) -> Iterator[str]:
    x = 12.0
    for name in names:
        yield f'<rect x="{x}" y="38" width="12" height="12" fill="{_colour(names, name)}"/>'
        yield f'<text x="{x + 17}" y="48">{escape(name)}</text>'
        x += 34 + 6.2 * len(name)


def _colour(names: Sequence[str], name: str) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def _panel(panel: Panel, names: Sequence[str]) -> Iterator[str]:
    points = [point for series in panel.series.values() for point in series]
    xs, top = sorted({x for x, _ in points}), _round_up(max(panel.highest, *(y for _, y in points), 0.0))
    yield f'<text x="{LEFT}" y="20" font-size="12" font-weight="bold">{escape(panel.title)}</text>'
    yield f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end" fill="#666">{escape(panel.x_label)}</text>'
    for step in range(5):
        value = top * step / 4
        y = _y(value, top)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>'
        yield f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>'
    low, high = (xs[0], xs[-1]) if xs else (0.0, 1.0)
    for tick in xs if panel.log else [low + (high - low) * step / 4 for step in range(5)]:
        x = _x(tick, low, high, log=panel.log)
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{_number(tick)}</text>'
    for name, series in panel.series.items():
        places = [(_x(x, low, high, log=panel.log), _y(y, top)) for x, y in series]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{path}" fill="none" stroke="{_colour(names, name)}" stroke-width="1.6"/>'
        if panel.dots:
            for (x, y), (_, value) in zip(places, series, strict=True):
                title = f"<title>{escape(name)}: {_number(value)}</title>"
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_colour(names, name)}">{title}</circle>'


def _x(value: float, low: float, high: float, *, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return LEFT + (WIDTH - LEFT - RIGHT) * ((value - low) / (high - low) if high > low else 0.5)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8 and 10 times a power of ten: four steps of it are round numbers."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 2, 4, 5, 8, 10) if step * unit >= value * 0.999999)


def _number(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"
