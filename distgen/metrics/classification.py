"""Classification accuracy score: what a classifier learns from a model's pictures.

Ravuri & Vinyals 2019: a classifier that saw generated pictures only is tested on real ones. What
the model leaves out, blurs, or gives the wrong class, it cannot learn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import Field

from distgen.core.config import Config
from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.metrics.classifier import SIDE, Lesson, recognise_all, shrink, taught
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import BLOCK, PictureSet
from distgen.metrics.remember import remembered
from distgen.metrics.scores import Part
from distgen.metrics.subject import Subject

_TEST_PICTURES = 10_000


class ClassificationConfig(Config):
    """What a classifier learns from a conditional model's pictures: trained on generated, tested on
    held-out ones; off unless it is there. Takes minutes on a CPU.
    """

    samples: int = Field(default=20_000, ge=2)
    """Generated pictures that it learns from, and as many real ones for the ceiling; fewer where
    there are fewer training pictures."""
    images: int = Field(default=100_000, ge=1)
    """Pictures that it sees in training, repetitions counted."""


class ClassificationScores(Part):
    """Accuracy on real pictures of a classifier that has seen generated ones only."""

    accuracy: float
    """Share of held-out pictures whose class it finds."""
    ceiling: float
    """The same of the classifier that has seen as many training pictures instead."""
    accuracy_by_class: tuple[float | None, ...]
    """Share of each class's held-out pictures, in label order; null where there are none."""
    ceiling_by_class: tuple[float | None, ...]
    """The same of the classifier that has seen training pictures."""
    samples: int
    """Pictures that each has learned from."""
    images: int
    """Pictures that each has seen in training, repetitions counted."""
    test_pictures: int
    """Held-out pictures."""
    classifier_digest: str
    """Identity of the classifier that learned from training pictures."""

    def figures(self) -> dict[str, float]:
        """Figures by flat names."""
        return {
            "classification_accuracy": self.accuracy,
            "classification_ceiling": self.ceiling,
        }


def refuse_unfit(spec: ImageSpec, *, conditional: bool, held_out: bool) -> None:
    """Refuse a model or a set for which there is no such score.

    Raises:
        UsageError: The model has no classes, or nothing with a class is held out to test on.
    """
    if not conditional or not spec.classes:
        raise UsageError(
            "evaluation.classification is for class-conditional models.",
            remedy="set model.conditional, or leave evaluation.classification out",
        )
    if not held_out:
        raise UsageError(
            "evaluation.classification tests on held-out pictures whose class is known, "
            "and the shard set has none.",
            remedy="build it with a test split: distgen data build SRC DST --split 0.1",
        )


def measure(subject: Subject, config: ClassificationConfig) -> ClassificationScores:
    """Score a conditional model. Collective; the same on every rank.

    Raises:
        UsageError: See `refuse_unfit`.
    """
    spec, ranks = subject.data.spec, subject.ranks
    test = subject.others(_TEST_PICTURES, "classification")
    held_out = test is not None and test.any_labelled()
    refuse_unfit(spec, conditional=subject.model.num_classes > 0, held_out=held_out)
    assert test is not None  # noqa: S101 - refused above
    training = subject.training(config.samples, "classification")
    labels = training.labels()
    maker = subject.maker("classification", labels)

    def lesson(identity: str) -> Lesson:
        return Lesson(identity, spec.channels, spec.num_classes, config.images)

    made = _gathered(maker.pictures, len(training), spec, ranks, "pictures to learn from")
    made_labels = maker.labels_n
    assert made_labels is not None  # noqa: S101 - the model is conditional
    generated = taught(
        lesson(f"generated like {training.identity}"),
        lambda: (made, made_labels),
        of="generated pictures",
        device=subject.device,
        ranks=ranks,
        cache=None,
    )
    found = recognise_all(generated, test.pictures, len(test), ranks, "real pictures recognised")
    real_lesson = lesson(f"real {training.identity}")
    ceiling = _ceiling(subject, real_lesson, training, test)
    truth = test.labels()
    known = truth >= 0
    return ClassificationScores(
        accuracy=float((found == truth)[known].mean()),
        ceiling=float((ceiling == truth)[known].mean()),
        accuracy_by_class=_by_class(found, truth, spec.num_classes),
        ceiling_by_class=_by_class(ceiling, truth, spec.num_classes),
        samples=len(training),
        images=config.images,
        test_pictures=int(known.sum()),
        classifier_digest=real_lesson.digest,
    )


def _ceiling(
    subject: Subject, lesson: Lesson, training: PictureSet, test: PictureSet
) -> np.ndarray:
    """What the classifier that learned from training pictures finds in the held-out ones."""
    ranks, cache = subject.ranks, subject.cache

    def compute() -> np.ndarray:
        spec, what = subject.data.spec, "real pictures to learn from"
        pictures = _gathered(training.pictures, len(training), spec, ranks, what)
        labels = training.labels()
        known = labels >= 0
        network = taught(
            lesson,
            lambda: (pictures[known], labels[known]),
            of="real pictures",
            device=subject.device,
            ranks=ranks,
            cache=cache,
        )
        return recognise_all(network, test.pictures, len(test), ranks, "real pictures recognised")

    return remembered(f"recognised v1 {lesson.digest} {test.identity}", compute, ranks, cache)


def _gathered(
    pictures: Callable[[range], np.ndarray], count: int, spec: ImageSpec, ranks: Ranks, what: str
) -> np.ndarray:
    """All pictures as a classifier sees them, uint8 `[n, H, W, C]`, on every rank."""
    parts = [shrink(pictures(rows)) for rows in ranks.blocks(count, BLOCK, what)]
    # A rank without a block has to know the shape all the same.
    none = np.empty((0, min(spec.height, SIDE), min(spec.width, SIDE), spec.channels), np.uint8)
    return ranks.gather(np.concatenate([none, *parts]))


def _by_class(found_n: np.ndarray, truth_n: np.ndarray, classes: int) -> tuple[float | None, ...]:
    right = found_n == truth_n
    shares = []
    for label in range(classes):
        of_class = truth_n == label
        shares.append(float(right[of_class].mean()) if of_class.any() else None)
    return tuple(shares)
