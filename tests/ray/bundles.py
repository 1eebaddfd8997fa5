"""Untrained models to serve, and to make pictures with."""

from __future__ import annotations

from pathlib import Path

import torch

from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, locate
from distgen.models import GANConfig, build_networks
from distgen.registry.bundle import write_bundle

GAN = GANConfig(latent_dim=16, width=16, conditional=True)


def untrained(folder: Path, spec: ImageSpec, name: str = "fashion", seed: int = 0) -> Location:
    """A bundle of a class-conditional generator whose weights are drawn from a seed."""
    torch.manual_seed(seed)
    location = locate(folder)
    write_bundle(
        location,
        model_config=GAN,
        spec=spec,
        state=build_networks(GAN, spec)["generator"].state_dict(),
        card=None,
        samples_png=None,
        name=name,
        images_seen=0,
    )
    return location
