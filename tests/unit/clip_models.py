"""A small real model of clips, and sets of clips, for the tests of several rooms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distgen.core.spec import ImageSpec
from distgen.data.building import build
from distgen.data.building.sources.moving import MovingSource
from distgen.models import FAMILIES, RVAEConfig
from distgen.models.likelihoods import Bernoulli
from distgen.models.single import SingleLatentModel

SPEC = ImageSpec(height=16, width=16, mode="L", frames=6)


class TinyClips(SingleLatentModel):
    """One linear layer each way; predicts that the last frame fades, by the first latent."""

    def predict(self, context_ntchw: Tensor, num_frames: int, normals_nd: Tensor) -> Tensor:
        """The last frame again, darker by as much as the first number says."""
        fade = 0.2 * torch.sigmoid(normals_nd[:, :1, None, None, None])
        steps = torch.arange(1, num_frames + 1).view(1, -1, 1, 1, 1)
        return (context_ntchw[:, -1:] - fade * steps).clamp(-1.0, 1.0)


def tiny(config: RVAEConfig, spec: ImageSpec) -> dict[str, nn.Module]:
    """A model of clips of any shape, under the name that its family serves."""
    *frames, height, width, channels = spec.shape
    shape = (*frames, channels, height, width)
    numbers = int(np.prod(shape))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(numbers, 2 * config.latent_dim))
    decoder = nn.Sequential(nn.Linear(config.latent_dim, numbers), nn.Unflatten(1, shape))
    return {"model": TinyClips(encoder, decoder, Bernoulli(), config.latent_dim)}


def make_clips_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `rvae` be a family of clips, with the tiny model."""
    monkeypatch.setitem(FAMILIES, "rvae", replace(FAMILIES["rvae"], build=tiny, clips=True))


def tiny_model(spec: ImageSpec = SPEC, latent_dim: int = 4) -> Any:
    """The model, in evaluation mode."""
    torch.manual_seed(0)
    return tiny(RVAEConfig(latent_dim=latent_dim), spec)["model"].eval()


def build_clips(folder: Path, clips: int = 40, test_clips: int = 24, **options: Any) -> str:
    """A set of clips of squares that bounce, 6 frames of 16x16."""
    sides = np.linspace(90, 250, 30).astype(np.uint8)
    pictures = sides[:, None, None].repeat(20, 1).repeat(20, 2)
    source = MovingSource(
        "squares", {"train": pictures, "test": pictures}, clips, test_clips, frames=6
    )
    build(source, folder, **{"size": 16, **options})
    return str(folder)
