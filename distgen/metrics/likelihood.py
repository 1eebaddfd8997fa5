"""The importance-weighted bound on the likelihood of held-out pictures (Burda et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distgen.core.seeding import derive
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import PictureSet
from distgen.metrics.scores import Part
from distgen.models import LatentVariableModel

BLOCK = 8
"""Pictures weighed together; part of no result, but equal blocks make equal bits on any ranks."""
_SAMPLES_PER_PASS = 128
"""Posterior samples of each picture that are weighed at once."""


class LikelihoodScores(Part):
    """How well a latent-variable model explains pictures that it was not trained on."""

    bound_nats: float
    """Mean upper bound on -log p(x) in nats by K importance samples; lower is better."""
    standard_error_nats: float
    """Standard error of that mean over the pictures."""
    elbo_nats: float
    """The same bound with one sample, the negative evidence lower bound."""
    bits_per_dim: float
    """`bound_nats` over pixels times channels, in bits."""
    importance_samples: int
    """K: samples of the posterior per picture."""
    images: int
    """Number of pictures."""
    split: str
    """Where the pictures come from."""


@torch.no_grad()
def importance_bounds(
    model: LatentVariableModel,
    images_nchw: Tensor,
    indices: Sequence[int],
    *,
    samples: int,
    seed: int,
) -> Tensor:
    """Log-likelihood bounds of each picture, in nats, float64 `[n, 2]`: K samples, one sample.

    The first column is log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x) with z_k ~ q(z|x), equation 8 of
    Burda, Grosse & Salakhutdinov 2016: in expectation a lower bound on log p(x) that tightens with
    K. The second is the mean of the logarithms, the evidence lower bound.

    A picture's binarisation or dequantisation depends on its index alone, so the test set is the
    same for every model; its posterior samples depend on (seed, index).

    Args:
        model: In evaluation mode.
        images_nchw: Pictures in [-1, 1] on the model's device.
        indices: The pictures' places in their set.
        samples: K.
        seed: Seed of the posterior samples.
    """
    device = images_nchw.device
    uniforms = torch.stack([_uniforms(i, images_nchw.shape[1:]) for i in indices]).to(device)
    observed = model.observe(images_nchw, uniforms)
    encoding = model.encode(observed)
    generators = [_generator(derive(seed, "importance samples", int(i))) for i in indices]
    passes = []
    for start in range(0, samples, _SAMPLES_PER_PASS):
        size = min(_SAMPLES_PER_PASS, samples - start)
        normals = torch.stack(
            [torch.randn(size, model.latent_dim, generator=g) for g in generators]
        ).to(device)
        passes.append(_log_weights(model, observed, encoding, normals))
    log_weights_nk = torch.cat(passes, dim=1).double().cpu()
    bound_n = torch.logsumexp(log_weights_nk, dim=1) - math.log(samples)
    return torch.stack([bound_n, log_weights_nk.mean(dim=1)], dim=1)


def measure(
    model: LatentVariableModel,
    chosen: PictureSet,
    samples: int,
    *,
    seed: int,
    device: torch.device,
    ranks: Ranks,
) -> LikelihoodScores:
    """Scores over the chosen pictures, each rank weighing its own; the same on every rank."""
    parts = []
    for rows in ranks.blocks(len(chosen), BLOCK, "likelihood of"):
        images = torch.from_numpy(chosen.samples(rows)).to(device)
        images_nchw = images.movedim(-1, -3).float() / 127.5 - 1.0
        indices = chosen.indices_n[rows.start : rows.stop].tolist()
        bounds = importance_bounds(
            model, images_nchw.contiguous(), indices, samples=samples, seed=seed
        )
        parts.append(bounds.numpy())
    dimensions = math.prod(chosen.shard_set.spec.shape)
    joined = ranks.join(parts, (2,))
    return summarise(torch.from_numpy(joined), dimensions, samples, chosen.split)


def summarise(bounds_n2: Tensor, dimensions: int, samples: int, split: str) -> LikelihoodScores:
    """Scores from the bounds of all pictures."""
    negative = -bounds_n2.double()
    count = len(negative)
    nats = float(negative[:, 0].mean())
    spread = float(negative[:, 0].std()) if count > 1 else 0.0
    return LikelihoodScores(
        bound_nats=nats,
        standard_error_nats=spread / math.sqrt(count),
        elbo_nats=float(negative[:, 1].mean()),
        bits_per_dim=nats / (dimensions * math.log(2.0)),
        importance_samples=samples,
        images=count,
        split=split,
    )


def _log_weights(
    model: LatentVariableModel,
    observed_nchw: Tensor,
    encoding: tuple[Tensor, ...],
    normals_nkd: Tensor,
) -> Tensor:
    """Log weights log p(x|z) + log p(z) - log q(z|x) for k samples of each picture, `[n, k]`."""
    count, per_picture, _ = normals_nkd.shape
    observed, *parts = (
        rows.repeat_interleave(per_picture, dim=0) for rows in (observed_nchw, *encoding)
    )
    terms = model.terms(observed, tuple(parts), normals_nkd.flatten(0, 1))
    log_weights = terms.log_likelihood_n + terms.log_prior_n - terms.log_posterior_n
    return log_weights.view(count, per_picture)


def _uniforms(index: int, shape: torch.Size) -> Tensor:
    return torch.rand(shape, generator=_generator(derive(0, "observation", int(index))))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
