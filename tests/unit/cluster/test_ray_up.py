"""The files for `ray up`, against Ray's own schema, Ray's own autoscaler and EC2's own model."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

from distgen.launch.nodes import JOB_STOP_WAIT_S
from tests.unit.cluster.autoscaling import nodes_for
from tests.unit.cluster.rendered import ROOT

TOKEN = "/home/ubuntu/.ray/auth_token"
INSTALLED = "/home/ubuntu/distgen"
CLUSTERS = tuple(sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("cluster/*/*.yaml")))

every_cluster = pytest.mark.parametrize("file", CLUSTERS)


def read(file: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())
    return config


def commands(config: dict[str, Any]) -> list[str]:
    return [line for key, lines in config.items() if key.endswith("_commands") for line in lines]


def is_spot(node_type: dict[str, Any]) -> bool:
    node = node_type["node_config"]
    market = node.get("InstanceMarketOptions", {}).get("MarketType")
    return "spot" in (market, str(node.get("scheduling", {}).get("provisioningModel")).lower())


def test_there_is_a_file_for_each_provider() -> None:
    assert {"cluster/aws/cluster.yaml", "cluster/gcp/cluster.yaml"} <= set(CLUSTERS)


@every_cluster
def test_ray_takes_the_file(file: str) -> None:
    validate_config(prepare_config(read(file)))


@every_cluster
def test_nothing_comes_from_rays_defaults(file: str) -> None:
    """They install a nightly build of Ray, and open the dashboard to the network."""
    config = read(file)
    prepared = prepare_config(read(file))
    assert set(prepared) - set(config) <= {
        "cluster_synced_files", "docker", "file_mounts_sync_continuously", "rsync_filter",
    }  # fmt: skip
    assert not [line for line in commands(prepared) if "wheels" in line or "0.0.0.0" in line]


@every_cluster
def test_the_head_computes_nothing_and_is_no_spot_node(file: str) -> None:
    config = read(file)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["max_workers"] == 0, "nor is there a second one"
    assert not is_spot(head)
    # On EC2 Ray fills in what it finds out of the instance type, unless it is told.
    assert config["provider"]["type"] != "aws" or head["resources"]["GPU"] == 0


@every_cluster
def test_a_bill_has_limits(file: str) -> None:
    config = read(file)
    types = config["available_node_types"].values()
    assert all(t["min_workers"] == 0 for t in types), "an idle cluster is a head alone"
    assert max(t["max_workers"] for t in types) <= config["max_workers"] <= 64
    assert 0 < config["idle_timeout_minutes"] <= 15


@every_cluster
def test_workers_get_the_nodes_that_are_meant_for_them(file: str) -> None:
    config = read(file)
    assert nodes_for(config, [{"CPU": 4}] * 4) == {"cpu": 2}
    with_gpus = [{"CPU": 4, "GPU": 1}] * 4
    assert nodes_for(config, with_gpus) == {"gpu-spot": 4}
    assert nodes_for(config, with_gpus, unavailable=["gpu-spot"]) == {"gpu": 4}
    assert not nodes_for(config, [{"CPU": 64}]), "which fits onto no node"


@every_cluster
def test_spot_nodes_and_those_on_demand_are_the_same_machine(file: str) -> None:
    types = read(file)["available_node_types"]
    spot = {name: t for name, t in types.items() if is_spot(t)}
    assert set(spot) == {"gpu-spot"}
    on_demand = types["gpu"]
    for name in ("InstanceType", "machineType", "ImageId", "disks"):
        assert spot["gpu-spot"]["node_config"].get(name) == on_demand["node_config"].get(name)
    assert spot["gpu-spot"]["resources"] == on_demand["resources"]
    assert spot["gpu-spot"]["priority"] > on_demand["priority"]


@every_cluster
def test_nobody_gets_in_without_the_token(file: str) -> None:
    config = read(file)
    assert config["file_mounts"][TOKEN] == "~/.ray/auth_token"
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (line for line in config[key] if "ray start" in line)
        assert re.search(r"\bRAY_AUTH_MODE=token .*\bray start\b", start)
    (head,) = (line for line in config["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in head
    assert f"RAY_JOB_STOP_WAIT_TIME_S={JOB_STOP_WAIT_S} " in head


@every_cluster
def test_what_is_sent_is_what_an_installation_needs(file: str) -> None:
    mounts = {
        remote.removeprefix(INSTALLED + "/"): local
        for remote, local in read(file)["file_mounts"].items()
        if remote != TOKEN
    }
    for local in mounts.values():
        assert (ROOT / local).exists(), local
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {"pyproject.toml", project["project"]["name"]}
    assert needed | {"constraints.txt"} == set(mounts)
    assert all(mounts[name] == name for name in needed)
    assert mounts["constraints.txt"] == "infra/constraints.txt"


@every_cluster
def test_every_package_has_its_pinned_version(file: str) -> None:
    installing = [line for line in commands(read(file)) if "pip install" in line]
    assert len(installing) >= 2
    for line in installing:
        exact = "grep -E '^torch=='" in line
        assert exact or "--constraint ~/distgen/constraints.txt" in line, line
    pinned = (ROOT / "infra" / "constraints.txt").read_text()
    for line in installing:
        words = line.partition("install")[2].split()
        for name in (word for word in words if re.fullmatch(r"[a-z][\w.-]+(==.*)?", word)):
            assert "==" in name or f"\n{name}==" in pinned, f"{name} has no version"


def test_ec2_knows_every_setting_of_a_node() -> None:
    service = botocore.session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    for name, node_type in read("cluster/aws/cluster.yaml")["available_node_types"].items():
        settings = node_type["node_config"] | {"MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(settings, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def test_ec2_has_those_machines_with_that_many_cores_and_gpus() -> None:
    moto = importlib.util.find_spec("moto")
    if moto is None or moto.origin is None:
        pytest.skip("moto is not installed (extra dev)")
    packed = Path(moto.origin).parent / "ec2" / "resources" / "instance_types.json.gz"
    machines = json.loads(gzip.decompress(packed.read_bytes()))
    config = read("cluster/aws/cluster.yaml")
    for name, node_type in config["available_node_types"].items():
        machine = machines[node_type["node_config"]["InstanceType"]]
        gpus = sum(gpu["Count"] for gpu in machine.get("GpuInfo", {}).get("Gpus", []))
        there = {"CPU": machine["VCpuInfo"]["DefaultVCpus"], "GPU": gpus}
        if name != config["head_node_type"]:
            assert {"GPU": 0} | node_type["resources"] == there, name


def test_compute_engine_has_those_machines_with_that_many_cores() -> None:
    config = read("cluster/gcp/cluster.yaml")
    for name, node_type in config["available_node_types"].items():
        machine = node_type["node_config"]["machineType"]
        if name != config["head_node_type"]:
            assert node_type["resources"]["CPU"] == int(machine.rpartition("-")[2])
            # The G2 machines have one L4 up to 16 cores; N2 machines have none.
            assert node_type["resources"].get("GPU", 0) == int(machine.startswith("g2-"))
        # A machine with a GPU cannot be moved to another host while it runs.
        moves = node_type["node_config"].get("scheduling", {}).get("onHostMaintenance", "MIGRATE")
        assert moves == ("TERMINATE" if machine.startswith("g2-") else "MIGRATE")
