"""What a search leaves for people and programs: best.yaml, trials.parquet, report.html."""

from __future__ import annotations

import html
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distgen.core.config import dump_yaml
from distgen.tune.folder import SearchFolder, Trial, as_row, rank

WIDTH, HEIGHT, MARGIN = 900, 320, 48
"""Pixels of the picture of parallel coordinates."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #ddd }
svg { width: 100% } svg text { font: 12px system-ui, sans-serif }
"""


def write_results(folder: SearchFolder, trials: Sequence[Trial]) -> None:
    """Write the table, the report and, last, the best trial's job file."""
    ranked = rank(list(trials), folder.job.mode)
    folder.table.write_bytes(to_parquet(trials))
    folder.report.write_text(to_html(folder, trials))
    best = folder.job.at(ranked[0].point)
    heading = (
        f"# The best of {len(trials)} trials of the search {folder.job.name!r}: "
        f"{folder.job.metric} {ranked[0].value:.6g} at {ranked[0].images_seen:,} images.\n"
    )
    folder.best.write_text(heading + dump_yaml(best))


def to_parquet(trials: Sequence[Trial]) -> bytes:
    """One row per trial: its values, its best card's figures, where its run is."""
    rows = [as_row(trial) for trial in trials]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def to_html(folder: SearchFolder, trials: Sequence[Trial]) -> str:
    """One page without scripts or network: the ranking, and parallel coordinates."""
    job = folder.job
    keys = list(job.search.space)
    ranked = rank(list(trials), job.mode)
    others = [trial for trial in trials if trial.value is None]
    better = "lower" if job.mode == "min" else "higher"
    head = ["trial", *keys, job.metric, "images", "status"]
    rows = [
        [
            f"{trial.number}",
            *(show(trial.point.get(key)) for key in keys),
            show(trial.value),
            f"{trial.images_seen:,}",
            f"{trial.status} {trial.cause}".strip(),
        ]
        for trial in [*ranked, *others]
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{html.escape(job.name)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(job.name)}</h1>"
        f"<p>{len(trials)} trials, {html.escape(job.metric)} ({better} is better). "
        f"The best is trial {ranked[0].number} with {show(ranked[0].value)}; "
        "<code>best.yaml</code> trains it.</p>"
        f"{_parallel_coordinates(ranked, [*keys, job.metric], job.metric)}"
        f"<table><tr>{_cells(head, 'th')}</tr>"
        + "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
        + "</table></html>\n"
    )


def show(value: Any) -> str:
    """A value in a table: four digits of a float, other things as they are."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _parallel_coordinates(ranked: Sequence[Trial], names: Sequence[str], metric: str) -> str:
    """An SVG with one vertical axis per key, one line per trial, the best drawn last and dark."""
    step = (WIDTH - 2 * MARGIN) / max(1, len(names) - 1)
    marks: list[str] = []
    places: list[list[float]] = []
    for position, name in enumerate(names):
        values = [t.value if name == metric else t.point.get(name) for t in ranked]
        x = MARGIN + position * step
        heights, low, high = _axis(values)
        places.append(heights)
        marks.append(
            f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{MARGIN}" y2="{HEIGHT - MARGIN}" stroke="#999"/>'
            + _text(x, 20, name)
            + _text(x, MARGIN - 6, high)
            + _text(x, HEIGHT - MARGIN + 18, low)
        )
    lines = []
    for place in reversed(range(len(ranked))):
        points = " ".join(
            f"{MARGIN + i * step:.1f},{heights[place]:.1f}" for i, heights in enumerate(places)
        )
        colour, width = ("#b00020", 3) if place == 0 else ("#6a8caf", 1.2)
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(lines)}{"".join(marks)}</svg>'


def _axis(values: Sequence[Any]) -> tuple[list[float], str, str]:
    """Heights in pixels of values on an axis, and what stands below and above it."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    kinds = sorted({json.dumps(value, default=str) for value in values})
    scale = (
        [float(value) for value in values]
        if numbers
        else [float(kinds.index(json.dumps(value, default=str))) for value in values]
    )
    low, high = min(scale), max(scale)
    if numbers and low > 0 and high / low > 30:  # spread over orders of magnitude
        scale = [math.log(value) for value in scale]
    bottom, span = min(scale), (max(scale) - min(scale)) or 1.0
    room = HEIGHT - 2 * MARGIN
    heights = [HEIGHT - MARGIN - room * (value - bottom) / span for value in scale]
    return (heights, show(low), show(high)) if numbers else (heights, kinds[0], kinds[-1])


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{html.escape(text)}</text>'


def _cells(values: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)


def _column(values: list[Any]) -> pa.Array:
    """One Parquet column: numbers, strings, or JSON where a key has values of several types."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if v is None else json.dumps(v, default=str) for v in values])
