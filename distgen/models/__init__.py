"""Model families: one file each, one line in the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.overrides import TorchFunctionMode

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.models import clip_rvae, gan, hvae, rvae, vae
from distgen.models.base import (
    Family,
    LatentNoise,
    LatentReader,
    LatentTerms,
    LatentVariableModel,
    Sampler,
)
from distgen.models.clip_rvae import ClipRVAEConfig
from distgen.models.gan import GANConfig
from distgen.models.hvae import HVAEConfig
from distgen.models.likelihoods import binarise
from distgen.models.rvae import RVAEConfig
from distgen.models.vae import VAEConfig

FAMILIES: dict[str, Family] = {
    "gan": gan.FAMILY,
    "vae": vae.FAMILY,
    "hvae": hvae.FAMILY,
    "rvae": rvae.FAMILY,
    "clip-rvae": clip_rvae.FAMILY,
}

ModelConfig = Annotated[
    GANConfig | VAEConfig | HVAEConfig | RVAEConfig | ClipRVAEConfig,
    Field(discriminator="family"),
]


def build_networks(config: ModelConfig, spec: ImageSpec) -> dict[str, nn.Module]:
    """Fresh networks of a family by name, initialised from torch's global generator.

    Raises:
        UsageError: The family cannot make such pictures (their size, or no classes), or these are
            clips.
    """
    family = FAMILIES[config.family]
    if family.clips != (spec.frames is not None):
        made, frames = ("clips", "with") if family.clips else ("single pictures", "without")
        raise UsageError(
            f"The model family {config.family!r} makes {made}, not {spec.samples_text}.",
            where="data.shards",
            remedy=f"train on a set of {made.split()[-1]}: distgen data build SRC DST, "
            f"{frames} --frames",
        )
    return family.build(config, spec)


def sketch_networks(config: ModelConfig, spec: ImageSpec) -> dict[str, nn.Module]:
    """The same networks with names, shapes and types, and no memory behind them.

    Raises:
        UsageError: As `build_networks`.
    """
    with torch.device("meta"), _WithoutNormals():
        return build_networks(config, spec)


class _WithoutNormals(TorchFunctionMode):
    """Draws no normal numbers: on the meta device they make torch load its compiler, 2 s of CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        return named["tensor"] if func is nn.init.normal_ else func(*args, **named)


__all__ = [
    "FAMILIES",
    "ClipRVAEConfig",
    "Family",
    "GANConfig",
    "HVAEConfig",
    "LatentNoise",
    "LatentReader",
    "LatentTerms",
    "LatentVariableModel",
    "ModelConfig",
    "RVAEConfig",
    "Sampler",
    "VAEConfig",
    "binarise",
    "build_networks",
    "sketch_networks",
]
