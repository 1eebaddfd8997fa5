"""Lines of a quality table for what is measured beside the distances, and how it was."""

from __future__ import annotations

from typing import NamedTuple

from distgen.metrics.card import Card
from distgen.metrics.scores import ExtractorScores


class QualityRow(NamedTuple):
    """One line of a quality table."""

    figure: str
    better: str
    """`lower` or `higher`."""
    value: str
    floor: str
    """What real pictures score; empty where that says nothing."""


def extractor_rows(scores: ExtractorScores) -> list[QualityRow]:
    """Kernel distance, and the Fréchet distance inside classes, where they were measured."""
    rows = []
    kernel, classes = scores.kernel, scores.per_class
    if kernel is not None:
        value = _with_error(kernel.distance, kernel.standard_error)
        floor = _with_error(kernel.floor, kernel.floor_standard_error)
        rows.append(QualityRow(f"kernel distance (KID), {scores.name}", "lower", value, floor))
    if classes is not None and classes.frechet_distance is not None and classes.floor is not None:
        figure = f"Fréchet distance inside classes, {scores.name}"
        rows.append(
            QualityRow(figure, "lower", short(classes.frechet_distance), short(classes.floor))
        )
    return rows


def further_rows(card: Card) -> list[QualityRow]:
    """What was measured on request."""
    rows = []
    modes, memories, learnt = card.modes, card.memorisation, card.classification
    if modes is not None:
        found, all_modes = f"{modes.modes:,} of {modes.classes:,}", f"{modes.floor_modes:,.0f}"
        rows.append(QualityRow("modes", "higher", found, all_modes))
        kl, floor_kl = short(modes.kl_nats), short(modes.floor_kl_nats)
        rows.append(QualityRow("KL divergence of modes, nats", "lower", kl, floor_kl))
    if memories is not None:
        close = f"{100 * memories.close_share:.2f} %"
        rows.append(QualityRow("unusually close to a training picture", "lower", close, "1.00 %"))
        copies, floor = f"{memories.copies:,}", f"{memories.floor_copies:,}"
        rows.append(QualityRow("copies of training pictures", "lower", copies, floor))
    if learnt is not None:
        accuracy, ceiling = f"{100 * learnt.accuracy:.2f} %", f"{100 * learnt.ceiling:.2f} %"
        figure = "accuracy of a classifier that learned from these"
        rows.append(QualityRow(figure, "higher", accuracy, ceiling))
    return rows


def further_conditions(card: Card) -> list[str]:
    """Sentences that say how these were measured."""
    return [
        *_kernel_conditions(card),
        *_class_conditions(card),
        *_modes_conditions(card),
        *_memorisation_conditions(card),
        *_classification_conditions(card),
    ]


def short(value: float) -> str:
    """A figure with about four digits."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _with_error(value: float, error: float | None) -> str:
    return short(value) if error is None else f"{short(value)} ± {error:.1g}"


def _kernel_conditions(card: Card) -> list[str]:
    kernel = card.extractors[0].kernel
    if kernel is None:
        return []
    return [
        f"Kernel distance: cubic polynomial kernel, {kernel.blocks} blocks of "
        f"{kernel.block_pictures:,} pictures, mean ± standard error."
    ]


def _class_conditions(card: Card) -> list[str]:
    said = []
    for scores in card.extractors:
        classes = scores.per_class
        if classes is None:
            continue
        if classes.classes:
            fewest = min(each.pictures for each in classes.classes)
            said.append(
                f"Inside classes on {scores.name}: mean over {len(classes.classes):,} classes of "
                f"at least {fewest:,} pictures each."
            )
        if classes.too_few:
            said.append(
                f"{classes.too_few:,} classes have too few pictures for the {scores.dimensions:,} "
                f"dimensions of {scores.name}; more evaluation.samples would measure them."
            )
    return said


def _modes_conditions(card: Card) -> list[str]:
    modes = card.modes
    if modes is None:
        return []
    unit = "channels" if modes.by == "channel" else "pictures"
    text = (
        f"Modes: {modes.samples:,} generated pictures; real pictures: as many of a perfect "
        f"sampler. The classifier ({modes.classifier_digest[:12]}) is right on "
        f"{100 * modes.classifier_accuracy:.2f} % of {modes.classifier_pictures:,} other {unit}."
    )
    return [text + (f" {modes.unknown:,} were of no known class." if modes.unknown else "")]


def _memorisation_conditions(card: Card) -> list[str]:
    found = card.memorisation
    if found is None:
        return []
    where = "held-out" if found.floor_split == "test" else "other training"
    searched = f"{found.train_pictures:,}"
    if found.train_pictures < found.train_total:
        searched += f" of {found.train_total:,}"
    text = (
        f"Memorisation: {found.samples:,} generated and {found.floor_samples:,} {where} pictures "
        f"beside {searched} training pictures on {found.extractor} "
        f"({found.extractor_digest[:12]}); median distance to the nearest "
        f"{short(found.median_distance)}, of real ones {short(found.floor_median_distance)}; "
        f"unusually close: within {short(found.close_distance)}, as the closest 1 % of real ones."
    )
    return [text + (f" {found.identical:,} are identical to one." if found.identical else "")]


def _classification_conditions(card: Card) -> list[str]:
    learnt = card.classification
    if learnt is None:
        return []
    return [
        f"Classifier: learned from {learnt.samples:,} generated pictures, real pictures: from as "
        f"many training pictures ({learnt.classifier_digest[:12]}); {learnt.images:,} pictures "
        f"seen; tested on {learnt.test_pictures:,} held-out ones."
    ]
