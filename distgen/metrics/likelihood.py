"""The importance-weighted bound on the likelihood of held-out pictures (Burda et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distgen.core.seeding import derive
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import PictureSet
from distgen.metrics.scores import Part
from distgen.models import LatentVariableModel

BLOCK = 8
"""Pictures weighed together; part of no result, but equal blocks make equal bits on any ranks."""
WIDE_BLOCK = 64
"""Pictures that are given one sample each together."""
_MOST_ROWS = 1024
"""Posterior samples of all pictures that are weighed at once; more are not faster."""
_PASS_BYTES = 256 << 20
"""Memory that one pass's features may take."""
_LIVE_TENSORS = 4
"""Tensors as large as a network's largest that are held at once while it computes."""
_DRAW = 16
"""Samples are drawn in multiples of this many: torch's generator then gives the same numbers
whether they come in one draw or in several."""


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
    wide_nats: float | None = None
    """`bound_nats` estimated for `wide_images` pictures: their mean with one sample, less what K
    samples gain on the `images` pictures. How hard these few happen to be does not count in it."""
    wide_error_nats: float | None = None
    """Standard error of that gain."""
    wide_images: int | None = None
    """Pictures of the estimate; all that are held out where `split` has no more."""


@torch.no_grad()
def importance_bounds(
    model: LatentVariableModel,
    images_nchw: Tensor,
    indices: Sequence[int],
    *,
    samples: int,
    seed: int,
    pass_bytes: int = _PASS_BYTES,
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
        pass_bytes: About the memory that samples weighed at once may take, however many are asked
            for; one sample of one picture is the least.
    """
    device = images_nchw.device
    observed = observe_by_index(model, images_nchw, indices)
    encoding = model.encode(observed)
    generators = [_generator(derive(seed, "importance samples", int(i))) for i in indices]
    rows = rows_per_pass(model, observed, encoding, pass_bytes)
    together = max(1, rows // (len(indices) * _DRAW)) * _DRAW
    passes = []
    for start in range(0, samples, together):
        size = min(together, samples - start)
        normals = torch.stack(
            [torch.randn(size, model.latent_dim, generator=g) for g in generators]
        ).to(device)
        passes.append(_log_weights(model, observed, encoding, normals, rows))
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
    wide: PictureSet | None = None,
) -> LikelihoodScores:
    """Scores over the chosen pictures, each rank weighing its own; the same on every rank.

    Args:
        model: In evaluation mode.
        chosen: Pictures that are weighed with all samples.
        samples: K.
        seed: Seed of the posterior samples.
        device: Where the model is.
        ranks: This rank among its peers.
        wide: More pictures of the same split, for which the bound is estimated.
    """
    parts = []
    for rows in ranks.blocks(len(chosen), BLOCK, "likelihood of"):
        images, indices = load_images(chosen, rows, device)
        bounds = importance_bounds(model, images, indices, samples=samples, seed=seed)
        parts.append(bounds.numpy())
    dimensions = math.prod(chosen.shard_set.spec.shape)
    joined = ranks.join(parts, (2,))
    scores = summarise(torch.from_numpy(joined), dimensions, samples, chosen.split)
    if wide is None or len(wide) <= len(chosen):
        return scores
    parts = [
        _elbos(model, wide, rows, seed, device).numpy()
        for rows in ranks.blocks(len(wide), WIDE_BLOCK, "bounds of")
    ]
    gains_n = joined[:, 0] - joined[:, 1]
    return scores.model_copy(
        update={
            "wide_nats": float(-ranks.join(parts).mean() - gains_n.mean()),
            "wide_error_nats": float(gains_n.std(ddof=1) / math.sqrt(len(gains_n))),
            "wide_images": len(wide),
        }
    )


@torch.no_grad()
def _elbos(
    model: LatentVariableModel, wide: PictureSet, rows: range, seed: int, device: torch.device
) -> Tensor:
    """The evidence lower bound of some pictures with one sample each, float64 `[n]`."""
    images, indices = load_images(wide, rows, device)
    observed = observe_by_index(model, images, indices)
    normals_nd = normals_by_index(seed, indices, model.latent_dim).to(device)
    terms = model.terms(observed, model.encode(observed), normals_nd)
    return (terms.log_likelihood_n - terms.kl_nd.sum(1)).double().cpu()


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


def rows_per_pass(
    model: LatentVariableModel,
    observed_nchw: Tensor,
    encoding: tuple[Tensor, ...],
    pass_bytes: int = _PASS_BYTES,
) -> int:
    """Rows that `terms` may be given at once, from what one row's largest features take.

    A function of the model and the picture's size alone, so that all ranks weigh alike.
    """
    largest = 1

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal largest
        for part in output if isinstance(output, tuple) else (output,):
            if isinstance(part, Tensor):
                largest = max(largest, part.numel() * part.element_size())

    modules = model.modules() if isinstance(model, nn.Module) else ()
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        one = tuple(part[:1] for part in encoding)
        model.terms(observed_nchw[:1], one, observed_nchw.new_zeros(1, model.latent_dim))
    finally:
        for hook in hooks:
            hook.remove()
    largest = max(largest, *(part[:1].numel() * part.element_size() for part in encoding))
    return min(_MOST_ROWS, max(1, pass_bytes // (_LIVE_TENSORS * largest)))


def _log_weights(
    model: LatentVariableModel,
    observed_nchw: Tensor,
    encoding: tuple[Tensor, ...],
    normals_nkd: Tensor,
    rows: int,
) -> Tensor:
    """Log weights log p(x|z) + log p(z) - log q(z|x) for k samples of each picture, `[n, k]`."""
    count, per_picture, _ = normals_nkd.shape
    normals = normals_nkd.flatten(0, 1)
    pictures = torch.arange(count, device=normals.device).repeat_interleave(per_picture)
    passes = []
    for start in range(0, len(normals), rows):
        chosen = pictures[start : start + rows]
        terms = model.terms(
            observed_nchw[chosen],
            tuple(part[chosen] for part in encoding),
            normals[start : start + rows],
        )
        passes.append(terms.log_likelihood_n + terms.log_prior_n - terms.log_posterior_n)
    return torch.cat(passes).view(count, per_picture)


def load_images(chosen: PictureSet, rows: range, device: torch.device) -> tuple[Tensor, list[int]]:
    """Some of the chosen pictures in [-1, 1], channels first, and their places in their set."""
    images = torch.from_numpy(chosen.samples(rows)).to(device).movedim(-1, -3)
    indices: list[int] = chosen.indices_n[rows.start : rows.stop].tolist()
    return (images.float() / 127.5 - 1.0).contiguous(), indices


def observe_by_index(
    model: LatentVariableModel, images_nchw: Tensor, indices: Sequence[int]
) -> Tensor:
    """Pictures as the likelihood sees them, binarised or dequantised by their index alone."""
    shape = images_nchw.shape[1:]
    uniforms = [
        torch.rand(shape, generator=_generator(derive(0, "observation", int(index))))
        for index in indices
    ]
    return model.observe(images_nchw, torch.stack(uniforms).to(images_nchw.device))


def normals_by_index(seed: int, indices: Sequence[int], latent_dim: int) -> Tensor:
    """Standard normal numbers `[n, latent_dim]`, each row a function of (seed, index)."""
    generators = (_generator(derive(seed, "posterior sample", int(i))) for i in indices)
    return torch.stack([torch.randn(latent_dim, generator=g) for g in generators])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
