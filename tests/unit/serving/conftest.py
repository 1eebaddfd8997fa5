"""Small real networks of every family, and engines around them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from distgen.core.spec import ImageSpec
from distgen.models import (
    FAMILIES,
    GANConfig,
    ModelConfig,
    RVAEConfig,
    Sampler,
    VAEConfig,
    build_networks,
)
from distgen.serving.making.engine import Engine, ModelInfo, capabilities_of
from distgen.serving.making.leading import leading_latents
from tests.unit.serving.making.here import engine_here

GREY = ImageSpec(
    height=28, width=28, mode="L", classes=("T-shirt/top", "Trouser", "Sneaker", "Ankle boot")
)
RGB = ImageSpec(height=16, width=16, mode="RGB")

MODELS: dict[str, tuple[ModelConfig, ImageSpec]] = {
    "conditional-gan": (GANConfig(latent_dim=16, width=16, conditional=True), GREY),
    "rgb-gan": (GANConfig(latent_dim=16, width=16), RGB),
    "vae": (VAEConfig(latent_dim=8, width=16), GREY),
    "lstm-vae": (RVAEConfig(latent_dim=8, width=64), GREY),
}

MakeNetwork = Callable[[str], tuple[Sampler, ImageSpec]]
MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="session")
def make_network() -> MakeNetwork:
    def make(name: str) -> tuple[Sampler, ImageSpec]:
        config, spec = MODELS[name]
        torch.manual_seed(0)
        network = build_networks(config, spec)[FAMILIES[config.family].served].eval()
        assert isinstance(network, Sampler)
        return network, spec

    return make


@pytest.fixture(scope="session")
def make_engine(make_network: MakeNetwork) -> MakeEngine:
    def make(name: str = "conditional-gan", **options: int) -> Engine:
        network, spec = make_network(name)
        info = ModelInfo(
            name="fashion",
            digest="d" * 64,
            family=MODELS[name][0].family,
            spec=spec,
            num_classes=network.num_classes,
            created=1_700_000_000,
            latent_dim=network.latent_dim,
            leading_latents=leading_latents(None, network.latent_dim),
            capabilities=capabilities_of(network, spec),
        )
        return engine_here(network, info, **options)

    return make
