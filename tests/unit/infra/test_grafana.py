"""The dashboard asks for what exists, in units, of whatever Prometheus it is given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.infra.metric_names import defined_by_ray, of_ours, unknown_events, used_in
from tests.unit.infra.promtool import needs_promtool, promtool, records

FILE = Path(__file__).parents[3] / "infra" / "grafana" / "distgen.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

UNITS = {"percentunit", "percent", "bytes", "s", "reqps", "none"}
"""Grafana's own names, of those that are used here; others are written out as a suffix."""
CHOICES = {
    "run": r"ray_distgen_train|run",
    "application": r"ray_serve|application",
    "model": r"ray_distgen_serve|model",
}
"""Which metrics a choice is for, by how their names begin."""

PER_PANEL = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


@PER_PANEL
def test_a_panel_asks_only_for_metrics_that_exist(panel: dict[str, Any]) -> None:
    recorded = {record["record"] for record in records()}
    for target in panel["targets"]:
        assert used_in(target["expr"])
        for name in used_in(target["expr"]) - recorded:
            assert name in of_ours() or defined_by_ray(name), name


@PER_PANEL
def test_a_panel_has_a_unit_and_says_what_it_shows(panel: dict[str, Any]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    assert unit in UNITS or re.fullmatch(r"suffix: \S+", unit)
    assert panel["description"].endswith(".")
    assert panel["targets"]


@PER_PANEL
def test_a_legend_uses_labels_that_its_query_keeps(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        kept = re.findall(r"by \(([^)]*)\)", target["expr"])
        labels = {label.strip() for group in kept for label in group.split(",")}
        for record in records():
            if record["record"] in target["expr"]:
                groups = re.findall(r"by \(([^)]*)\)", record["expr"])
                labels |= {label.strip() for group in groups for label in group.split(",")}
        used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert used, "series must be told apart"
        assert used <= labels


def everything(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    for child in (
        part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    ):
        yield from everything(child)


def test_no_data_source_is_named_but_the_one_that_is_chosen() -> None:
    sources = [part["datasource"] for part in everything(DASHBOARD) if "datasource" in part]
    assert len(sources) > len(PANELS)
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert DASHBOARD["id"] is None, "Grafana gives it one"


def test_choices_are_made_from_metrics_that_have_such_a_label() -> None:
    for name in VARIABLES.keys() - {"datasource"}:
        asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", VARIABLES[name]["definition"])
        assert asked is not None
        metric, label = asked.groups()
        assert label == name
        assert metric in of_ours() or defined_by_ray(metric)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_query_heeds_the_choice_of_what_it_is_about(expression: str) -> None:
    for name in used_in(expression):
        for matchers in re.findall(rf"{name}(\{{[^}}]*\}})?", expression):
            for choice, about in CHOICES.items():
                if re.match(about, name):
                    assert f'{choice}=~"${choice}"' in matchers, name


@needs_promtool
def test_every_query_is_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$\w+", "x", expression)}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"SUCCESS: {len(EXPRESSIONS)} rules found" in promtool("check", "rules", file)


def test_events_that_panels_ask_for_are_events_that_runs_tell() -> None:
    assert not unknown_events(EXPRESSIONS)


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    shown = set().union(*map(used_in, EXPRESSIONS))
    for record in records():
        if record["record"] in shown:
            shown |= used_in(record["expr"])
    assert of_ours() <= shown


def test_panels_do_not_lie_on_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + across, place["y"] + down)
            for across in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
