"""The quality card: every figure with its floor, its counts and the digest of what measured it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from distgen.core.world import World
from distgen.data import ShardSet
from distgen.data.streaming.bad import Tolerance
from distgen.metrics import further, latents, likelihood, video
from distgen.metrics.cache import CACHE, ArrayCache
from distgen.metrics.classification import ClassificationScores
from distgen.metrics.generated import PictureMaker, evaluating, labels_like
from distgen.metrics.latents import LatentScores
from distgen.metrics.likelihood import LikelihoodScores
from distgen.metrics.memorisation import MemorisationScores
from distgen.metrics.modes import ModeScores
from distgen.metrics.ranks import Gather, Ranks, alone
from distgen.metrics.reals import (
    PictureSet,
    any_labelled,
    build_extractors,
    choose_pictures,
    choose_yardstick,
    extract,
    measure_reals,
)
from distgen.metrics.request import EvaluationConfig, context_of, refuse_unfit
from distgen.metrics.scores import ExtractorScores, Part
from distgen.metrics.subject import Subject
from distgen.metrics.video import Predictor, VideoScores
from distgen.models import LatentVariableModel, ModelConfig, Sampler

WIDER = 10
"""As many times the pictures of the likelihood bound are given one sample each."""


class DataSource(Part):
    """The shard set that a model was measured against."""

    name: str
    """What the set calls itself."""
    fingerprint: str
    """Digest of its contents."""


class Card(Part):
    """What is known of a model's quality. Headlines compare where their `yardstick` agrees."""

    version: Literal[1] = 1
    """Version of this layout."""
    family: str
    """The model's family."""
    images_seen: int | None = None
    """How long the model had been trained."""
    data: DataSource
    """The training pictures."""
    samples: int
    """Generated pictures, reference pictures and floor pictures, each."""
    floor_split: str
    """Where the floor's pictures come from: `test`, or `train` where too few are held out."""
    neighbours: int
    """k of precision, recall, density and coverage."""
    extractors: tuple[ExtractorScores, ...] = Field(min_length=1)
    """Scores by feature space; the first gives the headline."""
    likelihood: LikelihoodScores | None = None
    """For latent-variable models."""
    latents: LatentScores | None = None
    """For those whose latents can be read one by one."""
    frames: int | None = None
    """Frames of a clip, of which one is looked at as a picture; None: the model makes pictures."""
    video: VideoScores | None = None
    """For models of clips that go on from given frames."""
    modes: ModeScores | None = None
    """Classes that it makes, where that was asked for."""
    memorisation: MemorisationScores | None = None
    """How near it comes to training pictures, where that was asked for."""
    classification: ClassificationScores | None = None
    """What a classifier learns from its pictures, where that was asked for."""
    not_finite: int = 0
    """Generated pictures with a value that is not a number; zero for any model worth its card."""
    seed: int
    """Seed of the generated pictures."""
    seconds: float
    """Time that the evaluation took."""

    @property
    def headline(self) -> float:
        """The Fréchet distance by the first extractor, for every family; lower is better.

        A bound on the likelihood exists for some families only and says little of how pictures
        look, so it is never the headline.
        """
        return self.extractors[0].generated.frechet_distance

    @property
    def headline_name(self) -> str:
        """A few letters for `headline`."""
        return "FD"

    @property
    def yardstick(self) -> dict[str, str]:
        """All that two headlines must share to be comparable."""
        first = self.extractors[0]
        shared = {
            "shard set": self.data.fingerprint[:12],
            "extractor": f"{first.name} {first.digest[:12]}",
            "samples": f"{self.samples:,}",
        }
        if self.frames is not None:
            shared["pictures"] = f"one frame of each clip of {self.frames}"
        return shared

    def figures(self) -> dict[str, float]:
        """Every figure by a flat name, the headline first, for curves and searches."""
        flat: dict[str, float] = {}
        for scores in self.extractors:
            flat.update(scores.figures())
        if self.likelihood is not None:
            flat["bound_nats"] = self.likelihood.bound_nats
            flat["bits_per_dim"] = self.likelihood.bits_per_dim
            if self.likelihood.wide_nats is not None:
                flat["wide_bound_nats"] = self.likelihood.wide_nats
        if self.latents is not None:
            flat["rate_nats"] = self.latents.rate_nats
            flat["distortion_nats"] = self.latents.distortion_nats
            flat["active_units"] = float(self.latents.active)
            if len(self.latents.groups) > 1:
                for number, group in enumerate(self.latents.groups, 1):
                    flat[f"kl_nats/group_{number}"] = group.kl_nats
        if self.video is not None:
            flat |= self.video.figures()
        for part in (self.modes, self.memorisation, self.classification):
            flat.update(part.figures() if part is not None else {})
        return flat


def evaluate_card(
    model: nn.Module,
    model_config: ModelConfig,
    data: ShardSet,
    held_out: ShardSet | None,
    config: EvaluationConfig,
    *,
    seed: int = 0,
    world: World = World(),  # noqa: B008 - frozen
    device: torch.device | None = None,
    gather: Gather = alone,
    images_seen: int | None = None,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 - frozen
    on_progress: Callable[[str], None] = lambda detail: None,  # noqa: ARG005
    on_sheet: Callable[[bytes], None] = lambda png: None,  # noqa: ARG005
    cache: ArrayCache = CACHE,
) -> Card:
    """Measure a model. Collective: every rank calls it alike, and every rank gets the card.

    Generated picture i depends on (seed, i) alone, and its class is that of the i-th reference
    picture, so that classes come as often as in the data. Pictures are rounded to 8 bits before
    they are scored. The card is the same for any number of ranks.

    A model of clips is measured as one of pictures by one frame of each clip, generated and real
    clips giving the same frames: from clips that are independent of one another, where frames of
    one clip are not. What this cannot see, how things move, is what predictions show.

    Args:
        model: The served network, on `device`.
        model_config: The model's section of the job file.
        data: The training pictures.
        held_out: Pictures that were not trained on, if there are any.
        config: How to measure.
        seed: Seed of the generated pictures.
        world: This rank among its peers.
        device: Where the model is and features are computed; by default the CPU.
        gather: Joins the row blocks of all ranks in rank order.
        images_seen: How long the model was trained, for the record.
        tolerance: What damaged samples do; those that are replaced are logged.
        on_progress: Called on every rank with what it is doing, such as `pictures 640/5,000`.
        on_sheet: Called on rank 0 with a PNG of generated pictures beside their nearest training
            pictures, where memorisation is measured.
        cache: Keeps the features of real pictures between evaluations.

    Raises:
        UsageError: The shard set has too few pictures, or something that is asked for does not fit
            the model or the set.
    """
    started = time.monotonic()
    device = device or torch.device("cpu")
    refuse_unfit(config, model_config, data.spec, held_out=any_labelled(held_out))
    ranks = Ranks(world, gather, on_progress)
    yardstick = choose_yardstick(data, held_out, config.samples, tolerance)
    extractors = build_extractors(
        config.extractors,
        data,
        device=device,
        ranks=ranks,
        cache=cache,
        tolerance=tolerance,
        inception_weights=config.inception_weights,
    )
    sampler = _sampler(model)
    reals = measure_reals(
        yardstick, extractors, config.neighbours, ranks, cache, sampler.num_classes
    )
    with evaluating(model):
        maker = _maker(sampler, yardstick.reference, seed, device)
        count = len(yardstick.reference)
        pictures = further.Kept(maker) if config.memorisation else maker.pictures
        generated = extract(pictures, count, extractors, ranks, "generated pictures")
        not_finite = int(gather(np.array([maker.not_finite])).sum())
        bounds = read = None
        if isinstance(model, LatentVariableModel):
            chosen = _unseen(data, held_out, config.likelihood_images, "likelihood", tolerance)
            wide = WIDER * config.likelihood_images
            bounds = likelihood.measure(
                model,
                chosen,
                config.importance_samples,
                seed=seed,
                device=device,
                ranks=ranks,
                wide=_unseen(data, held_out, wide, "likelihood", tolerance),
            )
            read = latents.measure(model, chosen, seed=seed, device=device, ranks=ranks)
        predictions = None
        if isinstance(model, Predictor) and (data.spec.frames or 1) > 1:
            predictions = video.measure(
                model,
                _unseen(data, held_out, config.prediction_clips, "prediction", tolerance),
                context=context_of(config, data.spec.frames or 1),
                futures=config.prediction_futures,
                seed=seed,
                device=device,
                ranks=ranks,
            )
        found = further.measure(
            Subject(sampler, data, held_out, seed, device, ranks, cache, tolerance),
            further.Wanted(config.modes, config.memorisation, config.classification),
            {extractor.name: extractor for extractor in extractors},
            generated,
            maker,
            pictures,
        )
    result = b""
    if world.is_main:
        scores = tuple(
            reals[e.name].compare(e, generated[e.name], ranks.telling(f"scores in {e.name}"))
            for e in extractors
        )
        card = Card(
            family=model_config.family,
            images_seen=images_seen,
            data=DataSource(name=data.manifest.name, fingerprint=data.fingerprint),
            samples=count,
            floor_split=yardstick.floor.split,
            neighbours=config.neighbours,
            extractors=scores,
            likelihood=bounds,
            latents=read,
            frames=data.spec.frames,
            video=predictions,
            modes=found.modes,
            memorisation=found.memorisation,
            classification=found.classification,
            not_finite=not_finite,
            seed=seed,
            seconds=round(time.monotonic() - started, 2),
        )
        result = card.model_dump_json().encode()
        if found.sheet_png:
            on_sheet(found.sheet_png)
    return Card.model_validate_json(ranks.share(result))


def _sampler(model: nn.Module) -> Sampler:
    if not isinstance(model, Sampler):
        raise TypeError(f"{type(model).__name__} cannot be sampled")
    return model


def _maker(model: Sampler, reference: PictureSet, seed: int, device: torch.device) -> PictureMaker:
    labels = reference.labels() if model.num_classes else np.empty(0, dtype=np.int64)
    chosen = labels_like(labels, model.num_classes)
    return PictureMaker(model, chosen, seed, device, frames_n=reference.frames_n)


def _unseen(
    data: ShardSet, held_out: ShardSet | None, count: int, purpose: str, tolerance: Tolerance
) -> PictureSet:
    if held_out is None:
        return choose_pictures(data, count, "train", purpose, tolerance)
    return choose_pictures(held_out, count, "test", purpose, tolerance)
