"""`distgen plan`: what it prints, what it refuses, and that it measures only where it must."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from distgen.bench.scale import plan as plan_module
from distgen.bench.scale.compute import Compute
from distgen.bench.scale.links import Link, Memory
from distgen.bench.scale.plan import Wishes, make_plan
from distgen.bench.scale.predict import Assumptions
from distgen.bench.scale.work import work_of
from distgen.cli import main as cli
from distgen.core.config import parse
from distgen.training.job import TrainJob
from distgen.training.run import open_pictures

MODEL = {"family": "gan", "latent_dim": 8, "width": 16}


@pytest.fixture
def job_file(digits: str, tmp_path: Path) -> Path:
    raw = {
        "kind": "train",
        "name": "planned",
        "storage": str(tmp_path / "runs"),
        "data": {"shards": digits},
        "model": MODEL,
        "training": {"images": 64_000, "batch_size": 64},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["distgen", "plan", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_json_has_a_row_for_each_number_of_workers(job_file, monkeypatch, capsys):
    options = ("--workers", "64,1,8", "--network", "100Gb", "--gpus-per-host", "8")
    told = ("--step-ms", "64:74", "--step-ms", "8:18", "--store-bandwidth", "10Gb", "--scale-batch")
    assert run(monkeypatch, job_file, *options, *told, "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [row["ranks"] for row in plan["rows"]] == [1, 8, 64]
    assert [row["hosts"] for row in plan["rows"]] == [1, 1, 8]
    assert [row["rank_batch"] for row in plan["rows"]] == [64, 8, 1]
    assert plan["rows"][0]["exchange_s"] == 0
    assert [row["batch_size"] for row in plan["scaled_batch_rows"]] == [64, 512, 4096]
    for row in plan["rows"]:
        assert sum(row["parts"].values()) == pytest.approx(row["step_s"])
        assert row["parts"][row["bottleneck"]] == max(row["parts"].values())
    assert plan["sums_per_step"] == 2
    assert plan["gradient_bytes"] == sum(map(sum, plan["sums"].values()))
    assert plan["assumptions"]["jitter"] == 0.02
    assert plan["store_read_once"] is True


def test_the_table_names_what_holds_each_number_up_and_what_is_assumed(
    job_file, monkeypatch, capsys
):
    options = ("--workers", "1,2,64", "--network", "1Mb", "--gpus-per-host", "1")
    assert run(monkeypatch, job_file, *options, "--step-ms", "74") == 0
    out = capsys.readouterr().out
    assert "the same batch of 64 images" in out
    assert "network bandwidth" in out
    assert "Between hosts: 30 µs a message" in out
    assert "--step-ms 74" in out
    assert "buffers are never sent" in out
    assert "Sums are rings" in out
    assert "memory" not in out


def test_workers_of_one_host_average_in_its_memory(job_file, monkeypatch, capsys):
    options = ("--workers", "1,2,4,16,64", "--network", "1Gb", "--gpus-per-host", "16")
    assert run(monkeypatch, job_file, *options, "--step-ms", "74") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "2 and 4 workers average gradients in their host's memory: 100 µs to meet, 4.00 GB/s" in out
    )
    assert "16 and 64 workers sum in rings; none goes on beside backward" in out
    assert "Inside a host: 10 µs a message, 2.00 GB/s" in out
    assert "Between hosts: 30 µs a message" in out


def test_on_gpus_nothing_is_averaged_in_host_memory(job_file, monkeypatch, capsys):
    options = ("--workers", "1,2", "--device", "h200")
    assert run(monkeypatch, job_file, *options) == 0
    assert "memory" not in capsys.readouterr().out


def never(*_: object, **__: object) -> None:
    raise AssertionError("this was measured")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], ["0 workers train nothing"]),
        (["--workers", "eight"], ["'eight' is no list", "8,64,512"]),
        (["--workers", "-1"], ["'-1' is no list"]),
        (["--workers", ""], ["No number of workers"]),
        (["--workers", "48"], ["48 workers do not divide a batch of 64", "16, 32, 64"]),
        (["--workers", "128"], ["128 workers do not divide"]),
        (["--workers", "8", "--gpus-per-host", "4"], ["2 hosts of 4", "--network 100Gb"]),
        (["--workers", "8", "--network", "100Xb"], ["'100Xb' is no bandwidth", "12.5GB"]),
        (["--workers", "8", "--store-bandwidth", "much"], ["'much' is no bandwidth"]),
        (["--workers", "8", "--device", "h20"], ["'h20'", "did you mean 'h200'"]),
        (["--workers", "8", "--assume", "jiter=0"], ["did you mean 'jitter'"]),
        (["--workers", "8", "--network", "1Gb", "--step-ms", "x"], ["no time of a step"]),
        (["training.batch=8", "--workers", "8"], ["there is no such key"]),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    arguments, words, job_file, monkeypatch, capsys
):
    monkeypatch.setattr(plan_module, "calibrate", never)
    monkeypatch.setattr(plan_module, "calibrate_link", never)
    monkeypatch.setattr(plan_module, "calibrate_memory", never)
    assert run(monkeypatch, job_file, *arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    for word in words:
        assert word in said


def test_a_report_that_is_none_is_refused(job_file, monkeypatch, capsys, tmp_path):
    (tmp_path / "speed.json").write_text("not JSON")
    assert run(monkeypatch, job_file, "--measured", tmp_path / "speed.json") == 2
    assert "not JSON" in capsys.readouterr().err
    (tmp_path / "speed.json").write_text("[]")
    told = ("--measured", tmp_path / "speed.json", "--network", "1Gb")
    assert run(monkeypatch, job_file, *told) == 2
    assert "no report of this job's speed" in capsys.readouterr().err
    assert run(monkeypatch, job_file, "--measured", tmp_path / "none.json") == 2
    assert "none.json" in capsys.readouterr().err


def test_where_nothing_is_known_the_ends_of_the_line_and_the_link_are_measured(
    job_file, monkeypatch
):
    job = parse(TrainJob, yaml.safe_load(job_file.read_text()), "a test")
    asked: list[object] = []
    largest = max(phase.bytes for phase in work_of(job, open_pictures(job)).sums)

    def calibrate(job: TrainJob, batches: list[int], **options: object) -> Compute:
        asked.append((batches, options["side_by_side"]))
        return Compute(0.01, 0.001)

    def link() -> Link:
        asked.append("link")
        return Link(1e-3, 1e9)

    monkeypatch.setattr(plan_module, "calibrate", calibrate)

    def memory(size: int) -> Memory:
        assert size == largest
        asked.append("memory")
        return Memory(1e-4, 1e10)

    monkeypatch.setattr(plan_module, "calibrate_link", link)
    monkeypatch.setattr(plan_module, "calibrate_memory", memory)
    monkeypatch.setattr(plan_module, "room_here", lambda _: 2)
    monkeypatch.setattr(plan_module, "cores_here", lambda: 2)
    planned = make_plan(job, open_pictures(job), Wishes((1, 4), 1e9))
    assert asked == [([16, 64], 2), "link", "memory"]
    assert planned.cluster.inside == Link(1e-3, 1e9)
    assert planned.cluster.memory == Memory(1e-4, 1e10)
    assert planned.cluster.cores == planned.cluster.per_host == 2
    asked.clear()
    make_plan(job, open_pictures(job), Wishes((2,), 1e9))
    assert asked == [([16, 32], 2), "link", "memory"]
    asked.clear()
    told = Assumptions(meeting_s=1e-5, memory_bytes_per_s=1e9)
    planned = make_plan(job, open_pictures(job), Wishes((2,), 1e9, assumptions=told))
    assert asked == [([16, 32], 2), "link"]
    assert planned.cluster.memory == Memory(1e-5, 1e9)


def test_bytes_of_an_image_are_those_of_the_shards(job_file):
    job = parse(TrainJob, yaml.safe_load(job_file.read_text()), "a test")
    pictures = open_pictures(job)
    work = work_of(job, pictures)
    on_disk = sum(file.stat().st_size for file in Path(job.data.shards, "train").glob("*.tar"))
    assert work.image_bytes == pytest.approx(on_disk / pictures.num_samples)
    assert work.cached
    kept = job.model_copy(update={"data": job.data.model_copy(update={"cache": "none"})})
    assert not work_of(kept, pictures).cached
