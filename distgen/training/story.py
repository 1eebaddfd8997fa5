"""What happened to a run's health, as a section of its report."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Event = Mapping[str, Any]

HEALTH_EVENTS = {
    "step skipped": "#b07a00",
    "warning": "#d98c00",
    "rolled back": "#c0392b",
    "given up": "#c0392b",
    "stopped early": "#2e7d4f",
}
"""Events that belong to this story, with the colours of their marks."""
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 860, 12, 12, 16, 34


@dataclass(frozen=True)
class Attempt:
    """The run between two roll-backs, on the clock."""

    start: int
    end: int
    marks: tuple[Event, ...]


def attempts(events: Sequence[Event]) -> list[Attempt]:
    """The run cut at its roll-backs."""
    found: list[Attempt] = []
    start = end = 0
    marks: list[Event] = []
    for event in events:
        end = max(end, int(event["images_seen"]))
        if event["event"] in HEALTH_EVENTS:
            marks.append(event)
        if event["event"] == "rolled back":
            found.append(Attempt(start, int(event["images_seen"]), tuple(marks)))
            start = end = int(event["to"])
            marks = []
    return [*found, Attempt(start, end, tuple(marks))]


def summary(events: Sequence[Event], looks: int) -> str:
    """The story in a sentence or two."""
    counts = {kind: sum(e["event"] == kind for e in events) for kind in HEALTH_EVENTS}
    skipped = sum(int(e["value"]) for e in events if e["event"] == "step skipped")
    parts = [
        _count(skipped, "skipped step"),
        _count(counts["warning"], "warning"),
        _count(counts["rolled back"], "roll-back"),
    ]
    said = ", ".join(part for part in parts if part)
    text = f"{said[0].upper()}{said[1:]}" if said else "Nothing was amiss"
    text += f" in {looks:,} looks." if looks else "."
    for event in reversed(events):
        if event["event"] == "rolled back":
            text += (
                f" Since the last roll-back the learning rate is {event['learning_rate_factor']:g}"
                f" times, and weights of gradient penalties are {event['penalty_factor']:g} times"
                f" those of the job (at least {event['penalty_floor']:g})."
            )
            break
    if counts["given up"]:
        text += " The run was given up."
    if counts["stopped early"]:
        text += " It was stopped early: the quality card did not improve any more."
    return text


def health_section(events: Sequence[Event], looks: int, images: int) -> str:
    """A sentence, a timeline with a row for each attempt, and a table of what was seen and done.

    Args:
        events: All events of the run, oldest first.
        looks: How often its health was looked at.
        images: Length of the run.
    """
    told = [event for event in events if event["event"] in HEALTH_EVENTS]
    body = f"<p>{html.escape(summary(events, looks))}</p>"
    if not told:
        return body
    return body + timeline(attempts(events), images) + _table(told)


def timeline(rows: Sequence[Attempt], images: int) -> str:
    """Each attempt as a line along the clock, with a mark where something was seen or done."""
    height = _TOP + _ROW * len(rows) + 18

    def across(clock: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(1.0, clock / max(1, images))

    parts = []
    for number, row in enumerate(rows):
        y = _TOP + _ROW * number
        left, right = across(row.start), across(row.end)
        parts.append(
            f"<line x1='{left:.1f}' x2='{right:.1f}' y1='{y}' y2='{y}' stroke='#3b7dd8' "
            "stroke-width='3' stroke-linecap='round'/>"
        )
        if number + 1 < len(rows):
            back = across(rows[number + 1].start)
            parts.append(
                f"<path d='M{right:.1f},{y} C{right:.1f},{y + 24} {back:.1f},{y + 10} "
                f"{back:.1f},{y + _ROW}' fill='none' stroke='#c0392b' stroke-dasharray='3 3'/>"
            )
        parts += [
            _mark(event["event"], across(int(event["images_seen"])), y, _label(event))
            for event in row.marks
        ]
    ends = (
        f"<text x='{_LEFT}' y='{height - 4}'>0</text><text x='{_WIDTH - _RIGHT}' "
        f"y='{height - 4}' text-anchor='end'>{images:,} images</text>"
    )
    legend = " · ".join(
        f"<span style='color:{colour}'>{_SHAPES[kind]}</span> {kind}"
        for kind, colour in HEALTH_EVENTS.items()
        if any(event["event"] == kind for row in rows for event in row.marks)
    )
    return (
        f"<svg viewBox='0 0 {_WIDTH} {height}' width='{_WIDTH}' role='img' "
        "aria-label='Health over the clock' font-family='system-ui, sans-serif' font-size='11' "
        f"fill='currentColor'>{''.join(parts)}{ends}</svg><p class='dim'>{legend}</p>"
    )


_SHAPES = {
    "step skipped": "●",
    "warning": "▲",
    "rolled back": "◀",
    "given up": "✕",
    "stopped early": "■",
}


def _mark(kind: str, x: float, y: float, label: str) -> str:
    return (
        f"<text x='{x:.1f}' y='{y + 5}' font-size='14' text-anchor='middle' "
        f"fill='{HEALTH_EVENTS[kind]}'><title>{html.escape(label)}</title>{_SHAPES[kind]}</text>"
    )


def _label(event: Event) -> str:
    return f"{event['images_seen']:,}: {event['signal']}, {event['action']}"


def _table(events: Sequence[Event]) -> str:
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape(cell)}</td>"
            for cell in (
                f"{event['images_seen']:,}",
                str(event["signal"]),
                f"{event['value']:.4g}",
                f"{event['threshold']:.4g}",
                str(event["action"]),
                str(event.get("meaning", "")),
            )
        )
        + "</tr>"
        for event in events
    )
    head = ("images seen", "signal", "value", "threshold", "what was done", "what it means")
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{rows}</table>"


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}" if number else ""
