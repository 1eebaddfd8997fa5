"""Differentiable augmentation of what a discriminator sees, with a probability that adapts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from distgen.core.config import Config
from distgen.objectives.base import Noise

Share = Annotated[float, Field(ge=0.0, le=1.0)]
HalfShare = Annotated[float, Field(ge=0.0, le=0.5)]
MeanSign = Annotated[float, Field(gt=-1.0, lt=1.0)]

_NUMBERS = (
    "flip?", "brightness?", "brightness", "saturation?", "saturation", "contrast?", "contrast",
    "translation?", "translation-y", "translation-x", "cutout?", "cutout-y", "cutout-x",
)  # fmt: skip
# How much red, green and blue weigh in what the eye takes for grey (ITU-R BT.601).
_GREY = (0.299, 0.587, 0.114)
SIGN_HALF_LIFE = 256
"""Images over which a batch's share in the running mean of signs halves."""
MOST_ADAPTED = 0.8
"""What the probability adapts to at most: changes that nearly always happen are learnt as part of
the pictures (Karras et al. 2020, section 2.2)."""


class AugmentationConfig(Config):
    """Changes of real and generated pictures alike, before the discriminator (Zhao et al. 2020).

    Each happens to a picture with the same probability, which rises while the discriminator tells
    its real pictures from generated ones too surely (Karras et al. 2020). Unlike `data.augment`,
    none of this shows in what the generator makes as long as the probability stays below 0.8, which
    it does not adapt beyond.
    """

    translation: HalfShare = 0.125
    """Largest shift, as a share of the sides; what comes in is grey."""
    cutout: Share = 0.5
    """Side of a grey square, as a share of the shorter side."""
    flip: bool = False
    """Mirror images; only where a mirrored picture is as real as the picture."""
    brightness: Share = 0.25
    """Largest change of brightness, as a share of the range from black to white."""
    contrast: Share = 0.5
    """Largest change of contrast, as a share of the picture's own."""
    saturation: Share = 1.0
    """Largest change of saturation, likewise; pictures in colour only."""
    probability: Share = 0.0
    """Probability of each change at the start."""
    target: MeanSign | None = 0.6
    """Mean sign of the discriminator's verdicts on real pictures, from -1 to 1, above which the
    probability rises and below which it falls; null: the probability stays as it is, and
    nothing happens at 0."""
    ramp_images: PositiveInt = 500_000
    """Images in which the probability would rise from 0 to 1."""


class Augmentation:
    """Changes pictures, and adapts how often. Its state is the same on every rank.

    The state stays where the pictures are: no step waits for it.

    Args:
        config: What may happen.
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        self._most = max(MOST_ADAPTED, config.probability)
        self.probability = torch.tensor(config.probability)
        """Of each change, for the next step: float32 []."""
        self._sign = torch.zeros(())
        self._seen = torch.zeros(2)  # sum and number of this step's signs on this rank

    def apply(self, images_nchw: Tensor, noise: Noise, purpose: str) -> Tensor:
        """Pictures as the discriminator is to see them; gradients flow through.

        Args:
            images_nchw: float32 in [-1, 1], this rank's rows of the batch.
            noise: The batch's.
            purpose: Tells apart the numbers of several sets of pictures in one step.

        Returns:
            Pictures of the same shape; colours may leave [-1, 1], so that gradients do not end.
        """
        numbers = noise.uniform(f"augmentation/{purpose}", len(_NUMBERS))
        draws = dict(zip(_NUMBERS, numbers.unbind(1), strict=True))
        self._move_to(images_nchw.device)
        changed = changed_pictures(images_nchw, draws, self.probability, self.config)
        return changed.contiguous(memory_format=torch.channels_last)

    def observe(self, verdicts_n: Tensor) -> None:
        """Take note of verdicts on real pictures: above zero where they passed for real."""
        self._move_to(verdicts_n.device)
        signs_n = verdicts_n.detach().sign()
        self._seen = self._seen + torch.stack((signs_n.sum(), signs_n.new_full((), len(signs_n))))

    def adapt(self, images: int, total: Callable[[Tensor], Tensor]) -> None:
        """Move the probability after a step; every rank must call it.

        Args:
            images: Images of the step, over all ranks.
            total: Sums a tensor over ranks, on the device.
        """
        signs, count = total(self._seen).unbind()
        share = 1.0 - 0.5 ** (images / SIGN_HALF_LIFE)
        self._sign = torch.lerp(self._sign, signs / count.clamp_min(1.0), share)
        self._seen = torch.zeros_like(self._seen)
        if self.config.target is not None:
            move = torch.sign(self._sign - self.config.target) * (images / self.config.ramp_images)
            self.probability = (self.probability + move).clamp(0.0, self._most)

    def state_dict(self) -> dict[str, Any]:
        """The probability, and what its next move rests on."""
        return {"probability": self.probability, "sign": self._sign}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            KeyError: The state is not one of these.
        """
        self.probability, self._sign = state["probability"], state["sign"]

    def _move_to(self, device: torch.device) -> None:
        self.probability = self.probability.to(device)
        self._sign, self._seen = self._sign.to(device), self._seen.to(device)


def changed_pictures(
    images_nchw: Tensor,
    draws: dict[str, Tensor],
    probability: Tensor,
    config: AugmentationConfig,
) -> Tensor:
    """Pictures after the changes that these uniform numbers decide on.

    Args:
        images_nchw: float32 in [-1, 1], 1 or 3 channels.
        draws: Uniform in [0, 1) [n], for each of what is drawn.
        probability: Of each change, float32 [].
        config: What may happen, and how much of it.
    """

    def happens(name: str) -> Tensor:
        return _per_picture(draws[f"{name}?"] < probability)

    def around_zero(name: str, most: float) -> Tensor:
        return _per_picture(most * (2.0 * draws[name] - 1.0))

    images = images_nchw
    if config.flip:
        # Half of those that are drawn, so that both kinds are equally frequent in the end.
        mirrored = _per_picture(draws["flip?"] < 0.5 * probability)
        images = torch.where(mirrored, images.flip(3), images)
    if config.brightness:
        bright = images + 2.0 * around_zero("brightness", config.brightness)
        images = torch.where(happens("brightness"), bright, images)
    if config.saturation and images.shape[1] == 3:
        grey = sum(weight * images[:, i : i + 1] for i, weight in enumerate(_GREY))
        vivid = grey + (images - grey) * (1.0 + around_zero("saturation", config.saturation))
        images = torch.where(happens("saturation"), vivid, images)
    if config.contrast:
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        strong = mean + (images - mean) * (1.0 + around_zero("contrast", config.contrast))
        images = torch.where(happens("contrast"), strong, images)
    if config.translation:
        images = _translate(images, draws, probability, config.translation)
    if config.cutout:
        images = images.masked_fill(happens("cutout") & _square(images, draws, config.cutout), 0.0)
    return images


def _per_picture(values_n: Tensor) -> Tensor:
    return values_n[:, None, None, None]


def _translate(
    images: Tensor, draws: dict[str, Tensor], probability: Tensor, share: float
) -> Tensor:
    """Shift by whole pixels."""
    drawn = draws["translation?"] < probability

    def sources(name: str, side: int) -> Tensor:
        most = round(share * side)
        shifts = torch.floor(draws[name] * (2 * most + 1)) - most
        places = torch.arange(side, device=images.device)
        return places - torch.where(drawn, shifts, 0.0).long()[:, None]

    _, channels, height, width = images.shape
    rows, columns = sources("translation-y", height), sources("translation-x", width)
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & (
        (columns >= 0) & (columns < width)
    )[:, None, None, :]
    from_rows = rows.clamp(0, height - 1)[:, None, :, None].expand(-1, channels, -1, width)
    from_columns = columns.clamp(0, width - 1)[:, None, None, :].expand(-1, channels, height, -1)
    moved = images.gather(2, from_rows).gather(3, from_columns)
    return moved.masked_fill(~inside, 0.0)


def _square(images: Tensor, draws: dict[str, Tensor], share: float) -> Tensor:
    """Where the grey square of each picture lies, bool [n, 1, height, width]."""
    _, _, height, width = images.shape
    side = max(1, round(share * min(height, width)))

    def covered(name: str, length: int) -> Tensor:
        first = torch.floor(draws[name] * length)[:, None] - side // 2
        places = torch.arange(length, device=images.device)
        return (places >= first) & (places < first + side)

    rows, columns = covered("cutout-y", height), covered("cutout-x", width)
    return rows[:, None, :, None] & columns[:, None, None, :]
