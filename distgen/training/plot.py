"""Line charts as SVG text, for reports that open without a network."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 420, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 26, 26


def line_chart(title: str, points: Sequence[tuple[float, float]]) -> str:
    """One series over the clock; points that are not finite are left out.

    Args:
        title: What the series is, with its unit.
        points: `(x, y)` pairs in the order of x.
    """
    points = [(x, y) for x, y in points if math.isfinite(y)]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = min(xs), max(xs)
    y_ticks = nice_ticks(min(ys), max(ys))
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) if x_high > x_low else 0.5
        up = (y - y_low) / (y_high - y_low) if y_high > y_low else 0.5
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    grid = "".join(
        f"<line x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{at(x_low, y)[1]:.1f}' "
        f"y2='{at(x_low, y)[1]:.1f}' stroke='currentColor' stroke-opacity='.15'/>"
        f"<text x='{_LEFT - 6}' y='{at(x_low, y)[1] + 4:.1f}' text-anchor='end'>{y:.4g}</text>"
        for y in y_ticks
    )
    ends = "".join(
        f"<text x='{at(x, y_low)[0]:.1f}' y='{_HEIGHT - 8}' text-anchor='{anchor}'>{x:,.0f}</text>"
        for x, anchor in ((x_low, "start"), (x_high, "end"))
    )
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
    mark = "".join(
        f"<circle cx='{at(*point)[0]:.1f}' cy='{at(*point)[1]:.1f}' r='2.5' fill='#3b7dd8'/>"
        for point in points[-1:]
    )
    label = html.escape(title)
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' role='img' aria-label='{label}' "
        "font-family='system-ui, sans-serif' font-size='11' fill='currentColor'>"
        f"<text x='{_LEFT}' y='14' font-size='12.5' font-weight='600'>{label} "
        f"<tspan font-weight='400'>{ys[-1]:.4g}</tspan></text>{grid}{ends}"
        f"<polyline points='{path}' fill='none' stroke='#3b7dd8' stroke-width='1.6'/>{mark}</svg>"
    )


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers inside `[low, high]`, at least one."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(raw))
    step = min((1.0, 2.0, 2.5, 5.0, 10.0), key=lambda m: abs(m * scale - raw)) * scale
    first = math.ceil(low / step)
    ticks = [k * step for k in range(first, math.floor(high / step) + 1)]
    return ticks or [low]
