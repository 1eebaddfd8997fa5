"""A bundle's README.md: what the model makes, how good it is, and how to ask it for pictures."""

from __future__ import annotations

import shlex

from distgen.metrics.card import Card
from distgen.metrics.video import VideoScores
from distgen.models import FAMILIES, sketch_networks
from distgen.registry.further_rows import (
    QualityRow,
    extractor_rows,
    further_conditions,
    further_rows,
    short,
)
from distgen.registry.layout import SAMPLES, BundleConfig

_FIGURES = (
    ("frechet_distance", "Fréchet distance", "lower"),
    ("precision", "precision", "higher"),
    ("recall", "recall", "higher"),
    ("density", "density", "higher"),
    ("coverage", "coverage", "higher"),
)

_FRAME_FIGURES = (
    ("mse_summed", "squared error of a frame", "lower"),
    ("psnr", "PSNR in dB", "higher"),
    ("ssim", "SSIM", "higher"),
)


def quality_rows(card: Card) -> list[QualityRow]:
    """A card as the lines of a table, the headline first."""
    rows = []
    for scores in card.extractors:
        for key, title, better in _FIGURES:
            value, floor = getattr(scores.generated, key), getattr(scores.floor, key)
            figure = f"{title}, {scores.name}"
            rows.append(QualityRow(figure, better, short(value), short(floor)))
        rows += extractor_rows(scores)
    bound = card.likelihood
    if bound is not None:
        error = short(bound.standard_error_nats)
        nats = f"{bound.bound_nats:.2f} ± {error}"
        rows.append(QualityRow("-log p(x) at most, nats", "lower", nats, ""))
        rows.append(QualityRow("bits per dimension", "lower", f"{bound.bits_per_dim:.4f}", ""))
    rows += _prediction_rows(card.video) if card.video else []
    return rows + further_rows(card)


def _prediction_rows(video: VideoScores) -> list[QualityRow]:
    """What is predicted of clips, each figure beside that of the last given frame."""
    ways = (
        ("central prediction", video.central),
        (f"mean of {video.futures} predictions", video.mean),
        (f"best of {video.futures} predictions", video.best),
    )
    rows = []
    for key, title, better in _FRAME_FIGURES:
        copied = short(getattr(video.last_frame, key))
        for way, scores in ways:
            value = f"{short(getattr(scores, key))} (last frame: {copied})"
            rows.append(QualityRow(f"{title}, {way}", better, value, ""))
    return rows


def conditions(card: Card) -> list[str]:
    """Sentences that say how a card's figures were measured."""
    floor = "held-out" if card.floor_split == "test" else "other training"
    said = [
        f"{card.samples:,} generated pictures against {card.samples:,} training pictures of "
        f"{card.data.name} ({card.data.fingerprint[:12]}); real pictures: {card.samples:,} {floor} "
        f"pictures against the same.",
        f"k = {card.neighbours} neighbours; features: "
        + ", ".join(
            f"{e.name} ({e.digest[:12]}, {e.dimensions} dimensions)" for e in card.extractors
        )
        + ".",
    ]
    bound = card.likelihood
    if bound is not None:
        where = "held-out" if bound.split == "test" else "training"
        said.append(
            f"Likelihood: importance-weighted bound with {bound.importance_samples:,} samples on "
            f"{bound.images:,} {where} pictures; with one sample {bound.elbo_nats:.2f} nats."
        )
        if bound.wide_nats is not None and bound.wide_images is not None:
            said.append(
                f"Estimated for {bound.wide_images:,} {where} pictures: {bound.wide_nats:.2f} ± "
                f"{short(bound.wide_error_nats or 0.0)} nats, their mean with one sample less the "
                "gain of the others."
            )
    if card.frames is not None:
        said.append(
            f"Pictures are frames of clips of {card.frames}: one of each clip, generated and real "
            "clips giving the same ones."
        )
    if card.video is not None:
        said.append(_predictions_said(card.video))
    said += further_conditions(card)
    if card.not_finite:
        said.append(f"{card.not_finite:,} generated pictures held values that are not numbers.")
    return said


def _predictions_said(video: VideoScores) -> str:
    where = "held-out" if video.split == "test" else "training"
    return (
        f"Predictions: {video.predicted} frames from the {video.context} before them, of "
        f"{video.clips:,} {where} clips, {video.futures} predictions of each, rounded to 8 bits. "
        "The squared error is summed over a frame's pixels on a scale from 0 to 1; SSIM is that of "
        "Wang et al. 2004 (Gaussian window of 11x11, range 255); the central prediction takes the "
        "prior's middle at each step, the best one is chosen for "
        "each clip and figure by the truth; beside each figure is that of the last given frame, "
        "repeated."
    )


def render_readme(config: BundleConfig, card: Card | None, *, has_samples: bool) -> str:
    """The model card as Markdown."""
    parts = [
        "---",
        "library_name: distgen",
        f"tags: [image-generation, {config.model.family}]",
        "---",
        "",
        f"# {config.name}",
        "",
        *([f"![{_made(config)} that it made]({SAMPLES})", ""] if has_samples else []),
        _description(config, card),
        "",
        "## Quality",
        "",
        *_quality(card),
        "",
        *_latents(card),
        "## Use",
        "",
        "From the folder that holds this bundle:",
        "",
        "```sh",
        "distgen serve .",
        f"distgen query {_prompt(config)} -n 16 --out grid.{'gif' if _clips(config) else 'png'}",
        "```",
        "",
        "```python",
        "import torch",
        "from distgen.core.storage import locate",
        "from distgen.registry import load_bundle",
        "",
        'bundle = load_bundle(locate("."))',
        f"latents = torch.randn(16, {_latent_dim(config)})",
        _python_call(config),
        "```",
        "",
        "`manifest.json` has the size and the SHA-256 of every file; loading checks them all.",
        "",
    ]
    return "\n".join(parts)


def _latent_dim(config: BundleConfig) -> int:
    served = FAMILIES[config.model.family].served
    networks = sketch_networks(config.model, config.image)
    return int(networks[served].latent_dim)  # type: ignore[arg-type]


def _description(config: BundleConfig, card: Card | None) -> str:
    image = config.image
    colour = "grey" if image.mode == "L" else "colour"
    kind = FAMILIES[config.model.family].title
    conditional = "A class-conditional" if _is_conditional(config) else "A"
    data = f", trained on {card.data.name}" if card else ""
    frames = f"{image.frames} frames of " if image.frames else ""
    text = (
        f"{conditional} {kind} that makes {colour} {_made(config)} of {frames}"
        f"{image.width}x{image.height} pixels{data} for {config.images_seen:,} "
        f"{'clips' if _clips(config) else 'images'}."
    )
    if _is_conditional(config):
        text += f"\n\nClasses: {', '.join(image.classes)}."
    return text


def _quality(card: Card | None) -> list[str]:
    if card is None:
        return ["Not measured yet: `distgen evaluate .`"]
    lines = ["| figure | better | this model | real pictures |", "|---|---|---:|---:|"]
    lines += [f"| {r.figure} | {r.better} | {r.value} | {r.floor} |" for r in quality_rows(card)]
    return [*lines, "", " ".join(conditions(card))]


def _latents(card: Card | None) -> list[str]:
    """What the latents hold, by group, and how a picture comes out of fewer of them."""
    if card is None or card.latents is None:
        return []
    latents = card.latents
    where = "held-out" if latents.split == "test" else "training"
    lines = [
        "## Latents",
        "",
        f"On {latents.images:,} {where} pictures the rate (KL to the prior) is "
        f"{latents.rate_nats:.2f} nats and the distortion (-log p(x|z)) "
        f"{latents.distortion_nats:.2f}. {latents.active:,} of {latents.size:,} latents are "
        f"active: their posterior mean varies by more than {latents.active_variance:g}.",
        "",
        "| group | latents | active | KL, nats | those with most KL |",
        "|---:|---:|---:|---:|---|",
    ]
    for number, group in enumerate(latents.groups, 1):
        most = ", ".join(f"{each.index} ({each.kl_nats:.2f})" for each in group.strongest[:5])
        lines.append(
            f"| {number} | {group.size:,} | {group.active:,} | {group.kl_nats:.2f} | {most} |"
        )
    lines += [
        "",
        "With the latents of most KL kept and the others drawn from the prior:",
        "",
        "| kept | rate, nats | distortion, nats |",
        "|---:|---:|---:|",
        *(
            f"| {point.kept:,} | {point.rate_nats:.2f} | {point.distortion_nats:.2f} |"
            for point in latents.curve
        ),
        "",
    ]
    return lines


def _prompt(config: BundleConfig) -> str:
    if not _is_conditional(config):
        return "random"
    # A class is called what somebody called a folder, and people paste what stands here.
    return shlex.quote(config.image.classes[0])


def _clips(config: BundleConfig) -> bool:
    return config.image.frames is not None


def _made(config: BundleConfig) -> str:
    return "clips" if _clips(config) else "pictures"


def _python_call(config: BundleConfig) -> str:
    made = "clips_ntchw" if _clips(config) else "images_nchw"
    if _is_conditional(config):
        return (
            "labels = torch.zeros(16, dtype=torch.int64)  # the first class\n"
            f"{made} = bundle.model.sample(latents, labels)  # in [-1, 1]"
        )
    return f"{made} = bundle.model.sample(latents)  # in [-1, 1]"


def _is_conditional(config: BundleConfig) -> bool:
    return bool(getattr(config.model, "conditional", False))
