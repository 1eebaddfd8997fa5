"""A run of a model of clips from its first step to a bundle that is served."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from distgen.core.config import parse
from distgen.core.errors import UsageError
from distgen.data import open_shard_set, read_samples
from distgen.metrics.animation import frames_of
from distgen.models import RVAEConfig, build_networks
from distgen.models.single import SingleLatentModel
from distgen.registry import load_bundle
from distgen.serving.http.app import create_app
from distgen.serving.making.engine import Engine, info_of, network_of
from distgen.serving.making.shelf import Shelf
from distgen.training import samples, trainer
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder, prepare
from tests.unit.clip_models import SPEC, build_clips, make_clips_a_family, tiny_model
from tests.unit.serving.making.here import engine_here


@pytest.fixture
def clips(tmp_path: Path) -> str:
    return build_clips(tmp_path / "clips")


@pytest.fixture
def make(clips: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainJob]:
    make_clips_a_family(monkeypatch)

    def job(name: str = "clips", **training: Any) -> TrainJob:
        raw = {
            "name": name,
            "storage": str(tmp_path / "runs"),
            "data": {"shards": clips, "lanes": 4, "shuffle_window": 256},
            "model": {"family": "rvae", "latent_dim": 4},
            "training": {
                "images": 96,
                "batch_size": 16,
                "learning_rate": 1e-2,
                "checkpoint_every": 48,
                "evaluate_every": 48,
                "log_every": 16,
                **training,
            },
            "evaluation": {
                "samples": 30,
                "extractors": ["pixel-pca64"],
                "importance_samples": 2,
                "likelihood_images": 8,
                "prediction_clips": 10,
                "prediction_futures": 2,
                "context_frames": 4,
            },
        }
        return parse(TrainJob, raw, "test")

    return job


def trained(job: TrainJob) -> RunFolder:
    run = prepare(job, open_shard_set(job.data.shards, "train").fingerprint)
    trainer.train(job)
    return run


def grids(run: RunFolder) -> list[str]:
    return [place.name for place in run.samples.list()]


def test_a_run_leaves_clips_that_move_and_a_card_of_its_predictions(make):
    run = trained(make())
    stamps = ("000000000048", "000000000096")
    expected = [f"{kind}-{s}.{e}" for kind in ("fakes", "predictions") for s in stamps
                for e in ("gif", "png")]  # fmt: skip
    assert grids(run) == sorted([*expected, "reals.gif", "reals.png"])
    for name in grids(run):
        with Image.open(io.BytesIO((run.samples / name).read_bytes())) as image:
            assert getattr(image, "n_frames", 1) == (6 if name.endswith("gif") else 1), name
    card = run.card.read_json()
    assert (card["frames"], card["video"]["context"], card["video"]["predicted"]) == (6, 4, 2)
    assert card["extractors"][0]["generated"]["frechet_distance"] > 0
    page = run.report.read_text()
    assert (
        page.count("data:image/gif;base64,") == 3
    )  # the newest and first fakes, and the real ones
    assert page.count("data:image/png;base64,") == 1  # the sheet of predictions
    assert "prediction_ssim/mean" in page


def test_predictions_begin_with_the_truth_and_the_first_fakes_differ_from_the_last(make):
    job = make()
    run = trained(job)
    moving = frames_of((run.samples / "predictions-000000000096.gif").read_bytes())
    # 16x16 is enlarged by 4 to at least 56, with a gap of 2 between.
    truth, again = (moving[:, 2:66, 2 + k * 66 : 66 + k * 66] for k in (0, 1))
    np.testing.assert_array_equal(truth[:4], again[:4])
    assert not np.array_equal(truth[4:], again[4:])
    held_out = open_shard_set(job.data.shards, "test")
    known, _ = read_samples(held_out, np.arange(held_out.num_samples))
    assert any(np.array_equal(truth[:, ::4, ::4], clip) for clip in known)
    first, last = (run.samples / f"fakes-0000000000{n}.gif" for n in (48, 96))
    assert first.read_bytes() != last.read_bytes()


def test_the_same_latents_are_shown_each_time(make):
    run = trained(make())
    bundle = load_bundle(run.bundle)
    again = samples.sample_grid(bundle.model, 0, 16, next(bundle.model.parameters()).device)
    shown = frames_of((run.samples / "fakes-000000000096.gif").read_bytes())
    np.testing.assert_array_equal(shown[:, 2:66:4, 2:66:4], again[0])


def test_the_bundle_has_a_sheet_and_says_that_it_makes_clips(make):
    run = trained(make())
    bundle = load_bundle(run.bundle)
    assert bundle.spec.frames == 6
    sheet = (run.samples / "fakes-000000000096.png").read_bytes()
    assert (run.bundle / "samples.png").read_bytes() == sheet
    readme = (run.bundle / "README.md").read_text()
    assert "makes grey clips of 6 frames of 16x16 pixels, trained on squares for 96 clips" in readme
    assert "clips_ntchw = bundle.model.sample(latents)" in readme
    assert "| SSIM, mean of 2 predictions | higher |" in readme
    assert "--out grid.gif" in readme


def test_resumed_equals_uninterrupted(make):
    whole = trained(make("whole"))
    job = make("broken", images=48)
    trained(job)
    again = trained(make("broken"))
    for run in (whole, again):
        assert load_bundle(run.bundle).config.images_seen == 96
    weights = [(run.bundle / "model.safetensors").read_bytes() for run in (whole, again)]
    assert weights[0] == weights[1]


def engine_of(run: RunFolder) -> Engine:
    bundle = load_bundle(run.bundle)
    network = network_of(bundle)
    return engine_here(network, info_of(bundle, network, 0))


async def post(engine: Engine, **body: Any) -> tuple[int, dict[str, Any]]:
    transport = httpx.ASGITransport(app=create_app(Shelf([engine])))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/images/generations", content=json.dumps(body))
        return answer.status_code, answer.json()


def test_an_endpoint_answers_with_files_that_play(make):
    engine = engine_of(trained(make()))

    async def ask() -> None:
        _, both = await post(engine, n=2, seed=7)
        _, second = await post(engine, seed=both["data"][1]["seed"], output_format="webp")
        _, slow = await post(engine, seed=7, frame_rate=4)
        assert (both["output_format"], both["frame_rate"]) == ("gif", 10)
        clips = [frames_of(base64.b64decode(image["b64_json"])) for image in both["data"]]
        assert [clip.shape for clip in clips] == [(6, 16, 16, 1)] * 2
        file = base64.b64decode(second["data"][0]["b64_json"])
        with Image.open(io.BytesIO(file)) as image:
            assert image.format == "WEBP"
        np.testing.assert_array_equal(frames_of(file), clips[1])
        file = base64.b64decode(slow["data"][0]["b64_json"])
        with Image.open(io.BytesIO(file)) as image:
            assert image.info["duration"] == 250
        np.testing.assert_array_equal(frames_of(file, 4), clips[0])
        await engine.close()

    asyncio.run(ask())


@pytest.mark.parametrize("fmt", ["png", "jpeg"])
def test_an_endpoint_refuses_still_formats_for_clips(make, fmt):
    engine = engine_of(trained(make(images=16)))

    async def ask() -> None:
        status, answer = await post(engine, output_format=fmt)
        assert (status, answer["error"]["param"]) == (400, "output_format")
        assert "this model makes clips. Use 'gif' or 'webp'." in answer["error"]["message"]
        await engine.close()

    asyncio.run(ask())


def test_a_family_of_clips_refuses_pictures(make, digits):
    spec = open_shard_set(digits, "train").spec
    with pytest.raises(UsageError, match="makes clips, not pictures"):
        build_networks(RVAEConfig(), spec)


def test_what_cannot_predict_is_not_shown_predicting(make):
    job = make(images=16)
    run = prepare(job, open_shard_set(job.data.shards, "train").fingerprint)
    tiny = tiny_model(SPEC)
    model = SingleLatentModel(tiny.encoder, tiny.decoder, tiny.likelihood, tiny.latent_dim)
    shard_set = open_shard_set(job.data.shards, "train")
    samples.write(run, model, shard_set, job, 16, next(model.parameters()).device)
    assert not [name for name in grids(run) if name.startswith("predictions")]
    assert "fakes-000000000016.gif" in grids(run)
