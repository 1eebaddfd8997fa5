"""Replicas on a CUDA device, and on parts of one, without Ray: `make test-gpu`."""

from __future__ import annotations

import asyncio
import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from distgen.core.spec import ImageSpec
from distgen.models import VAEConfig
from distgen.serving.making.loading import outline
from distgen.serving.making.references import Edition
from distgen.serving.making.sampler import Picture
from distgen.serving.making.workshop.apart import Workshop
from distgen.serving.making.workshop.orders import Encoding
from tests.unit.serving.making.bundles import GAN, SPEC, bundle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

DEVICE = "cuda"
MODELS = {
    "gan": (GAN, SPEC),
    "vae": (VAEConfig(latent_dim=4, width=8), ImageSpec(height=16, width=16, mode="RGB")),
}
PICTURES = [Picture(seed, seed % 3) for seed in range(90)]


@pytest.fixture(params=MODELS)
def wanted(request, tmp_path):
    model, spec = MODELS[request.param]
    return outline(Edition(bundle(tmp_path / "b", model=model, spec=spec).url), request.param)


async def files_of(engine, pictures) -> list[bytes]:
    try:
        return await engine.generate(pictures, Encoding())
    finally:
        await engine.close()


def made_on(device: str, wanted, pictures=PICTURES) -> list[bytes]:
    """What a replica there answers: it and its two processes are new."""
    workshop = Workshop(device, encoder_threads=4)
    try:
        return asyncio.run(files_of(workshop.load(wanted), pictures))
    finally:
        workshop.close()


def test_a_picture_has_the_same_bytes_whatever_shares_its_batch(wanted):
    together = made_on(DEVICE, wanted)
    assert len(set(together)) == len(PICTURES)
    dice = random.Random(0)
    workshop = Workshop(DEVICE, encoder_threads=4)
    try:
        for count in (1, 2, 5, 17, 40):
            chosen = dice.sample(range(len(PICTURES)), count)
            files = asyncio.run(files_of(workshop.load(wanted), [PICTURES[i] for i in chosen]))
            assert files == [together[i] for i in chosen]
    finally:
        workshop.close()


def test_replicas_that_share_a_device_answer_alike_at_the_same_time(wanted):
    replicas = [Workshop(DEVICE, encoder_threads=4) for _ in range(3)]

    async def all_at_once() -> list[list[bytes]]:
        engines = [replica.load(wanted) for replica in replicas]
        return await asyncio.gather(*(files_of(engine, PICTURES) for engine in engines))

    try:
        first, *others = asyncio.run(all_at_once())
    finally:
        for replica in replicas:
            replica.close()
    assert all(files == first for files in others)
    assert first == made_on(DEVICE, wanted)


def test_a_device_draws_what_a_cpu_draws(wanted):
    def pixels(files: list[bytes]) -> np.ndarray:
        return np.stack([np.asarray(Image.open(io.BytesIO(file)), np.int16) for file in files])

    there, here = pixels(made_on(DEVICE, wanted)), pixels(made_on("cpu", wanted))
    assert here.std() > 1  # there is something to see
    # Kernels add up in another order, and may round their factors to TF32's ten bits.
    assert np.abs(there - here).max() <= 3
