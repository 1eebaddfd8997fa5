"""How many modes a model reaches, and how evenly (Metz et al. 2017; Lin et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from distgen.core.config import Config
from distgen.core.errors import UsageError
from distgen.core.seeding import derive
from distgen.core.spec import ImageSpec
from distgen.metrics.classifier import Classifier, Lesson, recognise, shrink, taught
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import BLOCK, PictureSet
from distgen.metrics.remember import remembered
from distgen.metrics.scores import Part
from distgen.metrics.subject import Subject

By = Literal["picture", "channel"]

LESSON_IMAGES = 60_000
"""Pictures that the classifier sees in training."""
_TRAINING_PICTURES, _TEST_PICTURES = 20_000, 10_000
_HELD_BACK = 5
"""Where nothing is held out, every so many-th training picture tests the classifier instead."""
_READ = 512
"""Pictures that are read, or looked at, together."""
_DRAWS = 64
"""Perfect samplers that the floor is the mean of."""


class ModesConfig(Config):
    """Which share of a set's classes a model makes, and how evenly; off unless it is there."""

    samples: int = Field(default=26_000, ge=2)
    """Generated pictures. 26,000 is usual for the 1,000 modes of stacked digits."""
    by: By = "picture"
    """What a small classifier, trained on the training pictures, is shown: the `picture`, or each
    `channel` by itself, where every class is named by one letter for each channel, as those of
    `stacked-digits` are."""


class ModeScores(Part):
    """Classes that a classifier finds in generated pictures, beside those of a perfect sampler."""

    modes: int
    """Classes that were found at least once."""
    classes: int
    """Classes that the training pictures have."""
    kl_nats: float
    """KL divergence of the found classes from those of the training pictures."""
    floor_modes: float
    """Classes that as many perfect samples would hold, on average."""
    floor_kl_nats: float
    """KL divergence that as many perfect samples would have, on average: about
    (classes - 1) / (2 samples)."""
    samples: int
    """Generated pictures."""
    unknown: int
    """Those found to be of no class of the set; only where channels are recognised one by one."""
    by: By
    """What the classifier was shown."""
    classifier_digest: str
    """Identity of the classifier."""
    classifier_accuracy: float
    """Its accuracy on real pictures, or channels, that it was not trained on."""
    classifier_pictures: int
    """How many of them there are, each counted once."""

    def figures(self) -> dict[str, float]:
        """Figures by flat names."""
        return {
            "modes": float(self.modes),
            "modes_kl": self.kl_nats,
            "modes_kl_floor": self.floor_kl_nats,
        }


@dataclass(frozen=True)
class Alphabet:
    """What a classifier tells apart, and which of it makes up each class of the set."""

    symbols: int
    """Number of things that it tells apart."""
    spelling_cs: np.ndarray
    """Symbols of each class in the order of channels, int64 `[classes, channels or 1]`."""

    @classmethod
    def of(cls, spec: ImageSpec, by: By) -> Alphabet:
        """The classes themselves, or the letters of their names."""
        if by == "picture":
            return cls(spec.num_classes, np.arange(spec.num_classes)[:, None])
        letters = sorted(set("".join(spec.classes)))
        spelling = [[letters.index(letter) for letter in name] for name in spec.classes]
        return cls(len(letters), np.array(spelling, dtype=np.int64))

    def classes_of(self, found_ns: np.ndarray) -> np.ndarray:
        """The class that each row of symbols spells, -1 for none, int64 `[n]`."""
        powers = self.symbols ** np.arange(self.spelling_cs.shape[1])
        table = np.full(self.symbols ** self.spelling_cs.shape[1], -1, dtype=np.int64)
        table[self.spelling_cs @ powers] = np.arange(len(self.spelling_cs))
        classes: np.ndarray = table[found_ns @ powers]
        return classes


def refuse_unfit(config: ModesConfig, spec: ImageSpec) -> None:
    """Refuse a set whose classes cannot be counted so.

    Raises:
        UsageError: It has no classes, or their names do not spell channels.
    """
    if not spec.classes:
        raise UsageError(
            "evaluation.modes counts classes, and the shard set has none.",
            remedy="leave evaluation.modes out, or build the set with classes: "
            "distgen data build stacked-digits DST",
        )
    lengths = {len(name) for name in spec.classes}
    if config.by == "channel" and lengths != {spec.channels}:
        raise UsageError(
            "evaluation.modes.by=channel needs classes named by one letter for each channel.",
            cause=f"pictures have {spec.channels} channels; a class is {spec.classes[0]!r}",
            remedy="evaluation.modes.by=picture",
        )


def natural(spec: ImageSpec) -> By:
    """By channel where the classes are all words of as many letters as there are channels."""
    letters, names = set("".join(spec.classes)), spec.classes
    spelled = {len(name) for name in names} == {spec.channels} and spec.channels > 1
    return "channel" if spelled and len(names) == len(letters) ** spec.channels else "picture"


def measure(subject: Subject, config: ModesConfig) -> ModeScores:
    """Count the modes of a model. Collective; the same on every rank."""
    spec, ranks = subject.data.spec, subject.ranks
    alphabet = Alphabet.of(spec, config.by)
    network, lesson = _classifier(subject, config, alphabet)
    accuracy, tested = _accuracy(subject, config, alphabet, network, lesson.digest)
    training = subject.training(subject.data.num_samples, "modes")
    labels = training.labels()
    shares = np.bincount(labels[labels >= 0], minlength=spec.num_classes).astype(np.float64)
    shares /= max(shares.sum(), 1.0)
    # Sets may lie class by class: the first of them are not like all.
    asked = np.random.default_rng(derive(0, "mode labels")).permutation(labels)
    maker = subject.maker("modes", np.resize(asked, config.samples))
    found = _spelled(network, maker.pictures, config, alphabet, ranks)
    counts = np.bincount(found[found >= 0], minlength=spec.num_classes)
    floor_modes, floor_kl = perfect_sampler(shares, config.samples)
    return ModeScores(
        modes=int((counts > 0).sum()),
        classes=int((shares > 0).sum()),
        kl_nats=divergence(counts, shares),
        floor_modes=floor_modes,
        floor_kl_nats=floor_kl,
        samples=config.samples,
        unknown=int((found < 0).sum()),
        by=config.by,
        classifier_digest=lesson.digest,
        classifier_accuracy=accuracy,
        classifier_pictures=tested,
    )


def divergence(counts_c: np.ndarray, shares_c: np.ndarray) -> float:
    """KL divergence in nats of counted classes from expected shares.

    Infinite where something was counted that is not expected at all.
    """
    seen = counts_c > 0
    if not seen.any():
        return float("inf")
    found = counts_c[seen] / counts_c.sum()
    with np.errstate(divide="ignore"):
        return float((found * (np.log(found) - np.log(shares_c[seen]))).sum())


def perfect_sampler(shares_c: np.ndarray, samples: int) -> tuple[float, float]:
    """Modes and KL divergence in nats that samples of the expected shares have, on average.

    Small samples are uneven however good the sampler is: for n samples of K equal classes the
    divergence is about (K - 1) / (2n).
    """
    random = np.random.default_rng(derive(0, "perfect sampler"))
    drawn = random.multinomial(samples, shares_c / shares_c.sum(), size=_DRAWS)
    modes = float((drawn > 0).sum(axis=1).mean())
    return modes, float(np.mean([divergence(counts, shares_c) for counts in drawn]))


def _classifier(
    subject: Subject, config: ModesConfig, alphabet: Alphabet
) -> tuple[Classifier, Lesson]:
    chosen = subject.training(_TRAINING_PICTURES, "mode classifier")
    held_back = _tested(subject) is None
    lesson = Lesson(
        identity=f"modes by {config.by} {chosen.identity} {held_back}",
        channels=1 if config.by == "channel" else subject.data.spec.channels,
        classes=alphabet.symbols,
        images=LESSON_IMAGES,
    )

    def examples() -> tuple[np.ndarray, np.ndarray]:
        images, symbols = _examples(chosen, config.by, alphabet, subject.ranks)
        kept = np.arange(len(images)) % _HELD_BACK > 0 if held_back else slice(None)
        return images[kept], symbols[kept]

    network = taught(
        lesson,
        examples,
        of="symbols",
        device=subject.device,
        ranks=subject.ranks,
        cache=subject.cache,
    )
    return network, lesson


def _tested(subject: Subject) -> PictureSet | None:
    """Held-out pictures, where there are any whose class is known."""
    chosen = subject.others(_TEST_PICTURES, "mode classifier")
    return chosen if chosen is not None and chosen.any_labelled() else None


def _accuracy(
    subject: Subject, config: ModesConfig, alphabet: Alphabet, network: Classifier, digest: str
) -> tuple[float, int]:
    """Accuracy of the classifier on pictures it was not trained on, and how many these are."""
    tested = _tested(subject)
    chosen = tested or subject.training(_TRAINING_PICTURES, "mode classifier")

    def compute() -> np.ndarray | None:
        if not subject.ranks.world.is_main:
            return None
        images, symbols = _examples(chosen, config.by, alphabet, subject.ranks)
        if tested is None:
            images, symbols = images[::_HELD_BACK], symbols[::_HELD_BACK]
        starts = range(0, len(images), _READ)
        found = np.concatenate([recognise(network, images[s : s + _READ]) for s in starts])
        return np.array([(found == symbols).mean(), len(images)])

    key = f"accuracy v1 {digest} {chosen.identity}"
    accuracy, pictures = remembered(key, compute, subject.ranks, subject.cache)
    return float(accuracy), int(pictures)


def _examples(
    chosen: PictureSet, by: By, alphabet: Alphabet, ranks: Ranks
) -> tuple[np.ndarray, np.ndarray]:
    """Different pictures, or channels, with their symbols.

    Stacks of three are drawn from a few hundred pictures, which come again and again: each counts
    once, or a test would seem larger than it is.
    """
    ranks.on_progress(f"pictures for a classifier {len(chosen):,}")
    labels = chosen.labels()
    known = labels >= 0
    images = _read_shrunk(chosen)[known]
    symbols = alphabet.spelling_cs[labels[known]]
    if by == "channel":
        images = images.transpose(0, 3, 1, 2).reshape(-1, *images.shape[1:3], 1)
    flat = np.concatenate([images.reshape(len(images), -1), _as_bytes(symbols.reshape(-1))], axis=1)
    _, first = np.unique(_rows_as_items(flat), return_index=True)
    first.sort()
    return np.ascontiguousarray(images[first]), symbols.reshape(-1)[first]


def _read_shrunk(chosen: PictureSet) -> np.ndarray:
    starts = range(0, len(chosen), _READ)
    return np.concatenate(
        [shrink(chosen.pictures(range(s, min(s + _READ, len(chosen))))) for s in starts]
    )


def _as_bytes(symbols_n: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(symbols_n, dtype="<i8")[:, None].view(np.uint8)


def _rows_as_items(rows_nb: np.ndarray) -> np.ndarray:
    """Rows of bytes `[n, b]` as `n` single values that can be sorted."""
    rows = np.ascontiguousarray(rows_nb)
    return rows.view(np.dtype((np.void, rows.shape[1])))[:, 0]


def _spelled(
    network: Classifier,
    pictures: Callable[[range], np.ndarray],
    config: ModesConfig,
    alphabet: Alphabet,
    ranks: Ranks,
) -> np.ndarray:
    """The class of every generated picture, -1 for none, int64 `[samples]`."""
    parts = []
    for rows in ranks.blocks(config.samples, BLOCK, "modes of"):
        made = pictures(rows)
        views = np.split(made, made.shape[3], axis=3) if config.by == "channel" else [made]
        symbols_ns = np.stack([recognise(network, view) for view in views], axis=1)
        parts.append(alphabet.classes_of(symbols_ns))
    return ranks.join(parts).astype(np.int64)
