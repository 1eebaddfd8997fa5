"""The trainer on one CUDA device, without Ray: `make test-gpu`."""

import math

import numpy as np
import pytest
import torch

from distgen.core.config import parse
from distgen.core.errors import PreemptedError
from distgen.core.world import World
from distgen.data import open_shard_set
from distgen.data.building import build
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
    "residual gan": {
        "family": "gan", "network": "residual", "latent_dim": 16, "widths": [32, 16], "patch": 2,
        "group_size": 8, "conditional": True, "minibatch_deviation": True,
    },
    "vae": {"family": "vae", "latent_dim": 8, "width": 32},
    "hvae": {"family": "hvae", "latent_dim": 8, "width": 32},
    "rvae": {"family": "rvae", "latent_dim": 8, "width": 32},
    "rvae of bands": {
        "family": "rvae", "latents": "sequence", "latent_dim": 4, "width": 32, "channels": 16,
    },
    "clip-rvae": {"family": "clip-rvae", "latent_dim": 4, "width": 16, "state": 32},
}  # fmt: skip
FALLING = {"start": 1.0, "end": 0.1, "images": 2048}
OBJECTIVES = {
    "residual gan": {
        "kind": "relativistic", "r1": FALLING, "r2": FALLING,
        "augmentation": {"ramp_images": 4096},
    },
    "clip-rvae": {"kind": "clip-elbo", "teacher_forcing_images": 1024},
}  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> str:
    """Clips of six frames, in which a bright square crosses the picture."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "videos").mkdir()
    for number in range(64):
        frames_thw = np.zeros((6, 16, 16), np.uint8)
        for time, frame_hw in enumerate(frames_thw):
            frame_hw[number % 12 :, 2 * time : 2 * time + 4] = 255
        np.save(folder / "videos" / f"{number}.npy", frames_thw)
    build(str(folder / "videos"), str(folder / "set"), frames=6, mode="L", split=0.25)
    return str(folder / "set")


@pytest.fixture
def shards(request: pytest.FixtureRequest) -> str:
    """What the test's family is trained on."""
    is_clips = request.node.callspec.params["family"] == "clip-rvae"
    return request.getfixturevalue("clips" if is_clips else "digits")


def make_run(shards: str, tmp_path, family: str, name: str, precision: str, **training):
    raw = {
        "name": name,
        "storage": str(tmp_path / "runs"),
        "data": {"shards": shards},
        "model": MODELS[family],
        **({"objective": OBJECTIVES[family]} if family in OBJECTIVES else {}),
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
    return prepare(parse(TrainJob, raw, "test"), open_shard_set(shards, "train").fingerprint)


def losses(run) -> list[float]:
    return [sum(row["losses"].values()) for row in run.metrics() if row["stage"] == "train"]


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_run_on_cuda_finishes_with_finite_losses_and_a_bundle(
    family, precision, shards, tmp_path
):
    run = make_run(shards, tmp_path, family, "run", precision)
    outcome = train(run.job(), device=torch.device("cuda"))
    assert outcome.digest
    assert len(losses(run)) == 16
    assert all(math.isfinite(loss) for loss in losses(run))


@pytest.mark.parametrize("family", MODELS)
def test_cuda_and_cpu_agree_on_the_same_pictures_and_noise(family, shards, tmp_path, monkeypatch):
    # On CUDA the noise is drawn there; for once it comes from where the other side draws it.
    monkeypatch.setattr(Noise, "source", torch.device("cpu"))
    on_gpu = make_run(shards, tmp_path, family, "gpu", "fp32")
    on_cpu = make_run(shards, tmp_path, family, "cpu", "fp32")
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
def test_no_step_waits_for_the_device(family, shards, tmp_path, monkeypatch):
    run = make_run(shards, tmp_path, family, "run", "auto", compile="off")
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
def test_compiled_networks_train_like_plain_ones(family, shards, tmp_path):
    runs = {}
    for mode in ("on", "off"):
        runs[mode] = make_run(shards, tmp_path, family, mode, "fp32", compile=mode)
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
