"""A first look at a model's pictures, before anybody else sees them."""

from __future__ import annotations

import torch

from distgen.core.errors import UsageError
from distgen.metrics.grid import to_uint8_nhwc
from distgen.models.base import Sampler
from distgen.registry.bundle import Bundle

PICTURES = 16
_SEED = 0


@torch.inference_mode()
def look(bundle: Bundle) -> None:
    """Make a few pictures of fixed seeds, of all classes in turn, and refuse what nobody may see.

    Raises:
        UsageError: The model makes no pictures, some of their values are not numbers, or each of
            them is of one colour.
    """
    network = bundle.model
    if not isinstance(network, Sampler):
        raise _refused(bundle, f"{bundle.config.model.family} makes no pictures")
    noise = torch.Generator().manual_seed(_SEED)
    latents_nd = torch.randn(PICTURES, network.latent_dim, generator=noise)
    labels_n = torch.arange(PICTURES) % network.num_classes if network.num_classes else None
    images_nchw = network.sample(latents_nd, labels_n)
    broken = int((~images_nchw.isfinite()).flatten(1).any(1).sum())
    if broken:
        raise _refused(bundle, f"{broken} of {PICTURES} hold values that are not numbers")
    # Colours apart: a picture of one blue has three different channels.
    pixels_npc = to_uint8_nhwc(images_nchw).reshape(PICTURES, -1, bundle.spec.channels)
    if (pixels_npc == pixels_npc[:, :1]).all():
        raise _refused(bundle, f"each of {PICTURES} is of one colour")


def _refused(bundle: Bundle, cause: str) -> UsageError:
    return UsageError(
        "The model's first pictures cannot be shown to anybody.",
        where=str(bundle.location),
        cause=cause,
        remedy="look at the run's samples and health: distgen runs show RUN",
    )
