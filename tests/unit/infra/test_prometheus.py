"""What Prometheus is told to scrape and to watch is valid, fires when it should, and helps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from distgen.cli.main import app
from tests.unit.infra.metric_names import defined_by_ray, of_ours, unknown_events, used_in
from tests.unit.infra.promtool import PROMETHEUS, alerts, needs_promtool, promtool, records

CASES = Path(__file__).with_name("alerts.yml")
RAY_COMMANDS = {"status", "stop", "list", "memory"}


@needs_promtool
def test_configuration_for_hosts_is_valid() -> None:
    assert "SUCCESS: 2 rule files found" in promtool(
        "check", "config", PROMETHEUS / "prometheus.yml"
    )


@needs_promtool
def test_configuration_for_kubernetes_is_valid_beside_its_discovery(tmp_path: Path) -> None:
    # Debian builds Prometheus without Kubernetes.
    config = kubernetes()
    del config["scrape_configs"][0]["kubernetes_sd_configs"]
    config["rule_files"] = [str(PROMETHEUS / "rules" / "*.yml")]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_kubernetes_discovery_asks_for_rays_pods_only() -> None:
    (job,) = kubernetes()["scrape_configs"]
    (discovery,) = job["kubernetes_sd_configs"]
    assert discovery == {
        "role": "pod",
        "selectors": [{"role": "pod", "label": "ray.io/cluster"}],
    }


def kubernetes() -> dict[str, Any]:
    return yaml.safe_load((PROMETHEUS / "prometheus-kubernetes.yml").read_text())


def test_both_configurations_differ_in_discovery_only() -> None:
    hosts, pods = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text()), kubernetes()
    for config in (hosts, pods):
        for key in ("file_sd_configs", "kubernetes_sd_configs", "relabel_configs"):
            config["scrape_configs"][0].pop(key, None)
    assert hosts == pods


@needs_promtool
def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    rules = {"groups": [{"name": "alerts", "rules": [without_annotations(a) for a in alerts()]}]}
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    cases = yaml.safe_load(CASES.read_text())
    cases["rule_files"] = [
        str(PROMETHEUS / "rules" / "recording.yml"),
        str(tmp_path / "alerts.yml"),
    ]
    (tmp_path / "cases.yml").write_text(yaml.safe_dump(cases, width=10_000))
    promtool("test", "rules", tmp_path / "cases.yml")


def without_annotations(alert: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in alert.items() if key != "annotations"}


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_something_stays_silent() -> None:
    fired: dict[str, int] = {}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for expected in case["alert_rule_test"]:
            name = expected["alertname"]
            fired[name] = fired.get(name, 0) + len(expected["exp_alerts"])
    assert set(fired) == {alert["alert"] for alert in alerts()}
    assert all(fired.values())


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do_next(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert set(alert["annotations"]) == {"summary", "next"}
    assert "{{ $labels." in alert["annotations"]["summary"], "what is it about?"
    text = alert["annotations"]["next"]
    assert len(text) > 80
    assert text.endswith(".")


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_commands_that_an_alert_names_exist(alert: dict[str, Any]) -> None:
    for command in re.findall(r"`((?:distgen|ray) [^`]+)`", alert["annotations"]["next"]):
        program, *words = command.split()
        if program == "ray":
            assert words[0] in RAY_COMMANDS, command
            continue
        known: Any = typer.main.get_command(app)
        for word in words:
            if word.startswith("--"):
                assert any(word in option.opts for option in known.params), command
            else:
                known = known.commands[word]


@pytest.mark.parametrize(
    "rule", alerts() + records(), ids=lambda r: r.get("alert", r.get("record"))
)
def test_a_rule_asks_only_for_what_is_exported(rule: dict[str, Any]) -> None:
    recorded = {record["record"] for record in records()}
    assert used_in(rule["expr"]), "a rule is about something"
    for name in used_in(rule["expr"]) - recorded - {"up"}:
        assert name in of_ours() or defined_by_ray(name), name


def test_the_readme_names_every_metric_and_only_files_that_exist() -> None:
    folder = PROMETHEUS.parent
    text = (folder / "README.md").read_text()
    for name in of_ours():
        prefix = re.match(r"ray_distgen_(train|serve)_", name)
        assert prefix is not None
        row = next(line for line in text.splitlines() if prefix[0] in line)
        assert f"`{name.removeprefix(prefix[0])}`" in row, name
    table = text.split("## Image")[0]
    for file in re.findall(r"`([\w./]+)`[, |]", table):
        if file != "pyproject.toml":
            assert (folder / file).exists(), file


def test_events_that_alerts_ask_for_are_events_that_runs_tell() -> None:
    assert not unknown_events(alert["expr"] for alert in alerts())
