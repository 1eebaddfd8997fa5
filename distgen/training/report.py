"""`report.html`: a run on one page, in one file that needs no network."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distgen.core.config import dump_yaml
from distgen.core.storage import Location
from distgen.metrics.card import Card
from distgen.metrics.grid import preview_of
from distgen.metrics.latents import LatentScores
from distgen.training.job import TrainJob
from distgen.training.plot import line_chart
from distgen.training.run import RunFolder
from distgen.training.story import health_section

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --paper: #fbfbf9; --rule: #d9dad4; --dim: #667; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e1; --paper: #16191d; --rule: #343a41; --dim: #99a; } }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p.dim, td.dim, figcaption { color: var(--dim); }
.figures { display: flex; flex-wrap: wrap; gap: 1.25rem; }
figure { margin: 0; flex: 1 1 24rem; max-width: 33rem; }
figure img { image-rendering: pixelated; width: 100%; display: block;
  border: 1px solid var(--rule); }
figure.wide { flex-basis: 100%; max-width: 100%; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1.2rem .2rem 0;
  border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; }
pre { background: color-mix(in srgb, var(--rule) 35%, transparent); padding: .8rem 1rem;
  overflow-x: auto; font-size: 13px; }
svg { max-width: 100%; height: auto; }
"""
_MAX_PICTURE_BYTES = 2 << 20
"""Larger sheets are shown reduced, so that a page of them loads at once and fits into an e-mail."""
_MAX_CLIP_BYTES = 8 << 20
_PREVIEW_PIXELS = {False: 1056, True: 2048}
"""Their longer side, by whether the figure is a wide one: twice what the page has for it."""


def write_report(run: RunFolder, job: TrainJob) -> None:
    """Write the run's page anew from what its folder holds."""
    run.report.write_text(_page(run, job))


def _page(run: RunFolder, job: TrainJob) -> str:
    rows = run.metrics()
    ticks = [row for row in rows if row.get("stage") == "train"]
    cards = [row for row in rows if row.get("stage") == "card"]
    seen = ticks[-1]["images_seen"] if ticks else 0
    sections = [
        _pictures(run),
        _section("Quality", _card_table(cards) + _card_charts(cards)),
        *_latents(run),
        _section("Health", _health(run, rows, job)),
        _section("Losses", _charts(ticks, "losses")),
        _section("Speed", _speed(ticks)),
        _section("Events", _event_table(run.events())),
        _section("Job", f"<pre>{html.escape(dump_yaml(job))}</pre>"),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(job.name)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(job.name)}</h1><p class='dim'>{job.model.family} · {job.objective.kind}"
        f" · {seen:,} of {job.training.images:,} images seen</p>{''.join(sections)}</body></html>"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body or '<p class=dim>Nothing yet.</p>'}</section>"


def _pictures(run: RunFolder) -> str:
    places = {place.name: place for place in run.samples.list()}
    if any(name.endswith(".gif") for name in places):
        return _clips(places)
    grids = {name: place for name, place in places.items() if name.endswith(".png")}
    shown: list[tuple[str, Location]] = []
    fakes = [name for name in grids if name.startswith("fakes-")]
    again = [name for name in grids if name.startswith("reconstructions-")]
    nearest = [name for name in grids if name.startswith("nearest-")]
    if fakes:
        shown.append((f"Generated, after {_clock(fakes[-1]):,} images", grids[fakes[-1]]))
    if "reals.png" in grids:
        shown.append(("Real", grids["reals.png"]))
    if again:
        shown.append(("The real ones, reconstructed", grids[again[-1]]))
    if nearest:
        caption = "Generated (left) and the training pictures nearest to each, the closest first"
        shown.append((caption, grids[nearest[-1]]))
    if len(fakes) > 1:
        shown.append((f"The same latents after {_clock(fakes[0]):,} images", grids[fakes[0]]))
    figures = "".join(_figure(caption, place) for caption, place in shown)
    return _section("Pictures", f"<div class='figures'>{figures}</div>" if shown else "")


def _clips(places: Mapping[str, Location]) -> str:
    """The clips of a run: moving, and what is predicted of others as a sheet."""
    fakes = [name for name in places if name.startswith("fakes-") and name.endswith(".gif")]
    sheets = [name for name in places if name.startswith("predictions-") and name.endswith(".png")]
    figures = []
    if fakes:
        caption = f"Generated, after {_clock(fakes[-1]):,} images"
        figures.append(_figure(caption, places[fakes[-1]]))
    if "reals.gif" in places:
        figures.append(_figure("Real", places["reals.gif"]))
    if sheets:
        caption = (
            f"Real clips, and below each its first frames with a prediction of those that follow, "
            f"after {_clock(sheets[-1]):,} images"
        )
        figures.append(_figure(caption, places[sheets[-1]], wide=True))
    if len(fakes) > 1:
        caption = f"The same latents after {_clock(fakes[0]):,} images"
        figures.append(_figure(caption, places[fakes[0]]))
    return _section("Clips", f"<div class='figures'>{''.join(figures)}</div>")


def _figure(caption: str, place: Location, *, wide: bool = False) -> str:
    """A picture in the page itself; a large sheet reduced, a clip too large for it by its name."""
    kind = place.name.rpartition(".")[2]
    if kind != "png" and place.size() > _MAX_CLIP_BYTES:
        return f"<figure><figcaption>{caption}: samples/{place.name}</figcaption></figure>"
    data = place.read_bytes()
    if len(data) > _MAX_PICTURE_BYTES and kind == "png":
        kind, data = "webp", preview_of(data, _PREVIEW_PIXELS[wide])
        caption = f"{caption} (reduced; whole in samples/{place.name})"
    encoded = base64.b64encode(data).decode()
    return (
        f"<figure{' class=wide' if wide else ''}><img alt='{caption}' "
        f"src='data:image/{kind};base64,{encoded}'><figcaption>{caption}</figcaption></figure>"
    )


def _clock(name: str) -> int:
    return int(name.rpartition(".")[0].rpartition("-")[2])


def _card_table(cards: Sequence[dict[str, Any]]) -> str:
    if not cards:
        return ""
    figures = cards[-1]["card"]
    return _table(
        ("figure", "last card"), [(name, f"{value:.4g}") for name, value in figures.items()]
    )


def _card_charts(cards: Sequence[dict[str, Any]]) -> str:
    return _charts(cards, "card") if len(cards) > 1 else ""


def _latents(run: RunFolder) -> list[str]:
    """What the latents hold, for models whose last card says so."""
    if not run.card.is_file():
        return []
    latents = Card.model_validate(run.card.read_json()).latents
    if latents is None:
        return []
    sheets = [place for place in run.samples.list() if place.name.startswith("traversals-")]
    figure = ""
    if sheets:
        caption = "One latent at a time, from -3 to 3; those that hold most, group by group"
        figure = f"<div class='figures'>{_figure(caption, sheets[-1], wide=True)}</div>"
    return [_section("Latents", _latent_table(latents) + _rate_distortion(latents) + figure)]


def _latent_table(latents: LatentScores) -> str:
    rows = [
        (f"{number}", f"{group.size:,}", f"{group.active:,}", f"{group.kl_nats:.2f}")
        for number, group in enumerate(latents.groups, 1)
    ]
    whole = ("all", f"{latents.size:,}", f"{latents.active:,}", f"{latents.rate_nats:.2f}")
    return _table(("group", "latents", "active", "KL, nats"), [*rows, whole])


def _rate_distortion(latents: LatentScores) -> str:
    points = [
        (point.rate_nats, point.distortion_nats)
        for point in latents.curve
        if math.isfinite(point.rate_nats)
    ]
    return line_chart("distortion over rate, nats: latents kept, most KL first", points)


def _charts(rows: Sequence[dict[str, Any]], key: str) -> str:
    names = sorted({name for row in rows for name in row[key]})
    charts = [
        line_chart(name, [(row["images_seen"], row[key][name]) for row in rows if name in row[key]])
        for name in names
    ]
    return f"<div class='figures'>{''.join(charts)}</div>" if charts else ""


def _health(run: RunFolder, rows: Sequence[dict[str, Any]], job: TrainJob) -> str:
    looks = [row for row in rows if row.get("stage") == "health"]
    story = health_section(run.events(), len(looks), job.training.images)
    return story + _charts(looks, "health")


def _speed(ticks: Sequence[dict[str, Any]]) -> str:
    if not ticks:
        return ""
    speed = line_chart("images/s", [(t["images_seen"], t["images_per_s"]) for t in ticks])
    wait = line_chart("data wait, %", [(t["images_seen"], 100 * t["data_wait"]) for t in ticks])
    return f"<div class='figures'>{speed}{wait}</div>"


def _event_table(events: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            event["time"].replace("T", " ")[:19],
            f"{event['images_seen']:,}",
            event["event"],
            ", ".join(
                f"{key}: {value}"
                for key, value in event.items()
                if key not in ("time", "images_seen", "event")
            ),
        )
        for event in events
    ]
    return _table(("time (UTC)", "images seen", "event", "facts"), rows) if rows else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
