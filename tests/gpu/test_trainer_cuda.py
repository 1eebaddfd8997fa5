"""The trainer on one CUDA device, without Ray: `make test-gpu`."""

import math

import pytest
import torch

from distgen.core.config import parse
from distgen.core.errors import PreemptedError
from distgen.core.world import World
from distgen.data import open_shard_set
from distgen.objectives import Noise
from distgen.training import checkpoint, trainer
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


def make_run(digits: str, tmp_path, family: str, name: str, precision: str, **training):
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
            **training,
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
def test_cuda_and_cpu_agree_on_the_same_pictures_and_noise(family, digits, tmp_path, monkeypatch):
    # On CUDA the noise is drawn there; for once it comes from where the other side draws it.
    monkeypatch.setattr(Noise, "source", torch.device("cpu"))
    on_gpu = make_run(digits, tmp_path, family, "gpu", "fp32")
    on_cpu = make_run(digits, tmp_path, family, "cpu", "fp32")
    train(on_gpu.job(), device=torch.device("cuda"))
    train(on_cpu.job())
    first = [series[0] for series in (losses(on_gpu), losses(on_cpu))]
    assert first[0] == pytest.approx(first[1], rel=1e-3)


def test_noise_on_cuda_is_that_of_the_global_batch_on_any_number_of_ranks():
    device = torch.device("cuda")
    whole = Noise(0, 512, World(), 12, device).normal("latents", 5)
    assert whole.is_cuda
    for rank in range(3):
        mine = Noise(0, 512, World(rank, 3), 12, device).normal("latents", 5)
        assert torch.equal(mine, whole[rank::3])


@pytest.mark.parametrize("family", MODELS)
def test_no_step_waits_for_the_device(family, digits, tmp_path, monkeypatch):
    run = make_run(digits, tmp_path, family, "run", "auto", compile="off")
    step, steps = trainer.Trainer.step, []

    def watched(self, batch):
        steps.append(1)
        # The first step allocates, and chooses kernels.
        torch.cuda.set_sync_debug_mode("error" if len(steps) > 2 else "default")
        try:
            step(self, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(trainer.Trainer, "step", watched)
    train(run.job(), device=torch.device("cuda"))
    assert len(steps) == 16


@pytest.mark.parametrize("family", MODELS)
def test_compiled_networks_train_like_plain_ones(family, digits, tmp_path):
    runs = {}
    for mode in ("on", "off"):
        runs[mode] = make_run(digits, tmp_path, family, mode, "fp32", compile=mode)
        train(runs[mode].job(), device=torch.device("cuda"))
    assert "runs without torch.compile" not in [event["event"] for event in runs["on"].events()]
    names = [
        {place.name for place in checkpoint.complete(run.checkpoints)[-1].list()}
        for run in runs.values()
    ]
    assert names[0] == names[1]
    assert losses(runs["on"])[0] == pytest.approx(losses(runs["off"])[0], rel=1e-3)


def test_a_run_on_cuda_resumes(digits, tmp_path):
    def stop(tick):
        return tick.images_seen >= 1024

    whole = make_run(digits, tmp_path, "gan", "whole", "fp32")
    train(whole.job(), device=torch.device("cuda"))
    broken = make_run(digits, tmp_path, "gan", "broken", "fp32")
    with pytest.raises(PreemptedError):
        train(broken.job(), device=torch.device("cuda"), on_tick=stop)
    train(broken.job(), device=torch.device("cuda"))
    assert len(losses(broken)) == len(losses(whole)) == 16
    assert losses(broken)[8] == pytest.approx(losses(whole)[8], rel=1e-2)
