"""The trainer on one CUDA device, without Ray: `make test-gpu`."""

import math

import pytest
import torch

from distgen.core.config import parse
from distgen.data import open_shard_set
from distgen.training.job import TrainJob
from distgen.training.run import prepare
from distgen.training.trainer import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

MODELS = {
    "gan": {"family": "gan", "latent_dim": 16, "width": 32, "conditional": True},
    "vae": {"family": "vae", "latent_dim": 8, "width": 32},
    "hvae": {"family": "hvae", "latent_dim": 8, "width": 32},
    "rvae": {"family": "rvae", "latent_dim": 8, "width": 32},
}


def make_run(digits: str, tmp_path, family: str, name: str, precision: str):
    raw = {
        "name": name,
        "storage": str(tmp_path / "runs"),
        "data": {"shards": digits},
        "model": MODELS[family],
        "training": {
            "images": 2048,
            "batch_size": 128,
            "precision": precision,
            "learning_rate": 1e-3,
            "log_every": 128,
        },
        "evaluation": {"samples": 128, "importance_samples": 4, "likelihood_images": 32},
    }
    return prepare(parse(TrainJob, raw, "test"), open_shard_set(digits, "train").fingerprint)


def losses(run) -> list[float]:
    return [sum(row["losses"].values()) for row in run.metrics() if row["stage"] == "train"]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_run_on_cuda_finishes_with_finite_losses_and_a_bundle(
    family, precision, digits, tmp_path
):
    run = make_run(digits, tmp_path, family, "run", precision)
    outcome = train(run.job(), device=torch.device("cuda"))
    assert outcome.digest
    assert len(losses(run)) == 16
    assert all(math.isfinite(loss) for loss in losses(run))


@pytest.mark.parametrize("family", MODELS)
def test_cuda_and_cpu_train_on_the_same_pictures_and_noise(family, digits, tmp_path):
    on_gpu = make_run(digits, tmp_path, family, "gpu", "fp32")
    on_cpu = make_run(digits, tmp_path, family, "cpu", "fp32")
    train(on_gpu.job(), device=torch.device("cuda"))
    train(on_cpu.job())
    first = [series[0] for series in (losses(on_gpu), losses(on_cpu))]
    assert first[0] == pytest.approx(first[1], rel=1e-3)
