"""The real pictures that a model is measured against, and the features they have."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from distgen.core.errors import UsageError
from distgen.core.seeding import derive
from distgen.core.storage import sha256_of
from distgen.data import ShardSet, read_samples
from distgen.data.streaming.bad import Tolerance
from distgen.data.streaming.read import SampleReader
from distgen.metrics.cache import ArrayCache
from distgen.metrics.features import (
    EXTRACTORS,
    PCA_FIT_PICTURES,
    EfficientNetFeatures,
    Extractor,
    ExtractorName,
    PixelPCA,
    fit_pixel_pca,
    pixel_pca_digest,
)
from distgen.metrics.inception import InceptionFeatures, require
from distgen.metrics.intraclass import comparable_counts
from distgen.metrics.ranks import Ranks, Tell, quiet
from distgen.metrics.scores import (
    ClassScores,
    ExtractorScores,
    Groups,
    KernelScores,
    Measured,
    Reference,
)

BLOCK = 64
"""Pictures decoded, made and looked at together."""

_NO_TOLERANCE = Tolerance()


@dataclass(frozen=True)
class PictureSet:
    """Some pictures or clips of a shard set, in the set's order.

    Where pictures are asked for, a clip gives one frame, by its index in the set.
    """

    shard_set: ShardSet
    indices_n: np.ndarray
    split: str
    tolerance: Tolerance = _NO_TOLERANCE

    def __len__(self) -> int:
        return len(self.indices_n)

    @cached_property
    def identity(self) -> str:
        """Which pictures these are, whatever the set is called and wherever it lies."""
        chosen = sha256_of(np.ascontiguousarray(self.indices_n, dtype="<i8").tobytes())
        substitutes = " with substitutes" if self.tolerance.substitutes else ""
        frames = "" if self.frames_n is None else " a frame of each, v1"
        return f"{self.shard_set.fingerprint} {chosen}{substitutes}{frames}"

    @cached_property
    def frames_n(self) -> np.ndarray | None:
        """The frame of each clip that is its picture, int64 `[n]`; None: these are pictures."""
        frames = self.shard_set.spec.frames
        if frames is None:
            return None
        numbers = [derive(0, "frame", int(index)) % frames for index in self.indices_n]
        return np.array(numbers, dtype=np.int64)

    def samples(self, rows: range) -> np.ndarray:
        """Some of them as they are, uint8 `[n, H, W, C]`, or clips `[n, T, H, W, C]`."""
        indices = self.indices_n[rows.start : rows.stop]
        return read_samples(self.shard_set, indices, tolerance=self.tolerance)[0]

    def pictures(self, rows: range) -> np.ndarray:
        """Some of them as pictures, uint8 `[n, H, W, C]`."""
        if self.frames_n is None:
            return self.samples(rows)
        parts = []
        for start in range(rows.start, rows.stop, BLOCK):  # all clips of a set may fill the memory
            part = range(start, min(start + BLOCK, rows.stop))
            parts.append(self.samples(part)[np.arange(len(part)), self.frames_n[part]])
        return np.concatenate(parts)

    def labels(self) -> np.ndarray:
        """Their labels, int64 `[n]`, from the index alone; -1 where there is none."""
        reader = SampleReader(self.shard_set)
        try:
            return reader.labels(self.indices_n)
        finally:
            reader.close()

    def any_labelled(self) -> bool:
        """Whether the class of any of them is known."""
        return bool((self.labels() >= 0).any())


def any_labelled(shard_set: ShardSet | None) -> bool:
    """Whether there is such a set, and the class of any of its samples is known."""
    if shard_set is None or not shard_set.spec.classes:
        return False
    return PictureSet(shard_set, np.arange(shard_set.num_samples), "").any_labelled()


@dataclass(frozen=True)
class Yardstick:
    """What generated pictures are compared with, and how close real ones come to it."""

    reference: PictureSet
    """Training pictures."""
    floor: PictureSet
    """As many other real pictures: the distance between the two is as good as it gets."""


def choose_yardstick(
    data: ShardSet,
    held_out: ShardSet | None,
    samples: int,
    tolerance: Tolerance = _NO_TOLERANCE,
) -> Yardstick:
    """Reference and floor of equal size, the same for every model, seed and number of ranks.

    The floor is held out, unless fewer pictures are held out than half of the training set could
    give; then the training set is divided. Both have `samples` pictures, or as many as there are:
    distances of unequal counts do not compare.

    Raises:
        UsageError: There are fewer than four pictures.
    """
    train, held = data.num_samples, held_out.num_samples if held_out else 0
    from_held = min(samples, train, held)
    from_train = min(samples, train // 2)
    count = max(from_held, from_train)
    if count < 2:
        raise UsageError(
            "There are too few pictures to measure a model against.",
            where=str(data.location),
            cause=f"{train} for training, {held} held out; four are the least",
            remedy="build the shard set from more pictures",
        )
    if held_out is not None and from_held >= from_train:
        return Yardstick(
            _choose(data, count, "train", "reference", tolerance),
            _choose(held_out, count, "test", "floor", tolerance),
        )
    both = _draw(data, 2 * count, "reference and floor")
    return Yardstick(
        PictureSet(data, np.sort(both[:count]), "train", tolerance),
        PictureSet(data, np.sort(both[count:]), "train", tolerance),
    )


def choose_pictures(
    shard_set: ShardSet,
    count: int,
    split: str,
    purpose: str,
    tolerance: Tolerance = _NO_TOLERANCE,
) -> PictureSet:
    """`count` pictures, or all where there are fewer, the same every time."""
    return _choose(shard_set, min(count, shard_set.num_samples), split, purpose, tolerance)


def _choose(
    shard_set: ShardSet, count: int, split: str, purpose: str, tolerance: Tolerance
) -> PictureSet:
    return PictureSet(shard_set, np.sort(_draw(shard_set, count, purpose)), split, tolerance)


def _draw(shard_set: ShardSet, count: int, purpose: str) -> np.ndarray:
    generator = np.random.default_rng(derive(0, purpose))
    return generator.choice(shard_set.num_samples, size=count, replace=False)


def build_extractors(
    names: Sequence[ExtractorName],
    data: ShardSet,
    *,
    device: torch.device,
    ranks: Ranks,
    cache: ArrayCache,
    tolerance: Tolerance = _NO_TOLERANCE,
    inception_weights: str | None = None,
) -> list[Extractor]:
    """The extractors by name; the pixel PCA is fitted on training pictures by rank 0.

    Raises:
        UsageError: What Inception-v3 needs is not there.
        DataError: Weights are missing or not what they should be.
    """
    extractors: list[Extractor] = []
    for name in names:
        if name == "pixel-pca64":
            extractors.append(_pixel_pca(data, ranks, cache, tolerance))
        elif name == "inception-v3":
            extractors.append(InceptionFeatures(require(inception_weights), device))
        else:
            extractors.append(EfficientNetFeatures(device))
    return extractors


def _pixel_pca(data: ShardSet, ranks: Ranks, cache: ArrayCache, tolerance: Tolerance) -> PixelPCA:
    chosen = choose_pictures(data, PCA_FIT_PICTURES, "train", "pixel PCA", tolerance)
    digest = pixel_pca_digest(chosen.identity)
    rows = cache.get(digest) if ranks.world.is_main else None
    if ranks.world.is_main and rows is None:
        ranks.on_progress(f"principal components of {len(chosen):,} pictures")
        fitted = fit_pixel_pca(chosen.pictures(range(len(chosen))), chosen.identity)
        rows = np.concatenate([fitted.mean_p[None], fitted.components_kp])
        cache.put(digest, rows)
    # All ranks project on the same bits, whatever their linear algebra libraries round to.
    buffer = io.BytesIO()
    if rows is not None:
        np.save(buffer, rows, allow_pickle=False)
    rows = np.load(io.BytesIO(ranks.share(buffer.getvalue())), allow_pickle=False)
    return PixelPCA(mean_p=rows[0], components_kp=rows[1:], digest=digest)


def extract(
    pictures: Callable[[range], np.ndarray],
    count: int,
    extractors: Sequence[Extractor],
    ranks: Ranks,
    what: str,
) -> dict[str, np.ndarray]:
    """Features `[count, dimensions]` by extractor's name, each rank looking at its own blocks."""
    parts: dict[str, list[np.ndarray]] = {extractor.name: [] for extractor in extractors}
    for block in ranks.blocks(count, BLOCK, what):
        images = pictures(block)
        for extractor in extractors:
            parts[extractor.name].append(extractor(images))
    return {e.name: ranks.join(parts[e.name], (e.dimensions,)) for e in extractors}


@dataclass(frozen=True)
class RealScores:
    """The reference in one feature space, and what real pictures score against it."""

    reference: Reference
    floor: Measured
    groups: Groups

    def compare(
        self, extractor: Extractor, features_nd: np.ndarray, on_progress: Tell = quiet
    ) -> ExtractorScores:
        """Scores of generated pictures, picture i of the reference's class i, beside the floor."""
        groups, floor = self.groups, self.floor
        found = self.reference.measure(features_nd, groups.labels_n, groups.counts_c, on_progress)
        classes = None
        if len(groups.counts_c):
            classes = ClassScores.of(found.distances_c, floor.distances_c, groups.counts_c)
        return ExtractorScores(
            name=extractor.name,
            digest=extractor.digest,
            dimensions=extractor.dimensions,
            generated=found.scores,
            floor=floor.scores,
            kernel=KernelScores.of(found.kernel, floor.kernel),
            per_class=classes,
        )


def measure_reals(
    yardstick: Yardstick,
    extractors: Sequence[Extractor],
    neighbours: int,
    ranks: Ranks,
    cache: ArrayCache,
    classes: int = 0,
) -> dict[str, RealScores]:
    """The reference and its floor by extractor's name, on rank 0; empty on the others.

    All ranks look at those pictures whose features rank 0 does not find in its cache.

    Args:
        yardstick: The pictures.
        extractors: The feature spaces.
        neighbours: k of precision, recall, density and coverage.
        ranks: Who measures.
        cache: Rank 0's.
        classes: Number of classes of a conditional model, which are measured by themselves, too.
    """
    reference, floor = yardstick.reference, yardstick.floor
    features = _real_features(reference, extractors, ranks, cache)
    keys = {
        e.name: f"floor v2 {e.digest} {reference.identity} {floor.identity} {neighbours} {classes}"
        for e in extractors
    }
    known = _look_up(keys, ranks, cache)
    missing = ranks.agree(name for name in keys if name not in known)
    floor_features = _real_features(
        floor, [e for e in extractors if e.name in missing], ranks, cache
    )
    if not ranks.world.is_main:
        return {}
    floor_labels = floor.labels() if classes else np.empty(0, dtype=np.int64)
    groups = Groups()
    if classes:
        labels = reference.labels()
        groups = Groups(labels, comparable_counts(labels, floor_labels, classes))
    measured: dict[str, RealScores] = {}
    for extractor in extractors:
        name = extractor.name
        tell = ranks.telling(f"floor in {name}")
        measure = _reference(features[name], extractor, reference, neighbours, groups, tell)
        if name in known:
            floor_row = known[name]
        else:
            found = measure.measure(floor_features[name], floor_labels, groups.counts_c, tell)
            floor_row = found.to_row()
            cache.put(keys[name], floor_row)
        measured[name] = RealScores(measure, Measured.from_row(floor_row), groups)
    return measured


_REFERENCES: dict[str, Reference] = {}
"""The last references of this process, whose covariance root and radii take seconds to compute."""


def _reference(
    features_nd: np.ndarray,
    extractor: Extractor,
    chosen: PictureSet,
    neighbours: int,
    groups: Groups,
    on_progress: Tell,
) -> Reference:
    counts = sha256_of(np.ascontiguousarray(groups.counts_c, dtype="<i8").tobytes())
    key = f"{extractor.digest} {chosen.identity} {neighbours} {counts}"
    if key not in _REFERENCES:
        while len(_REFERENCES) >= len(EXTRACTORS):
            del _REFERENCES[next(iter(_REFERENCES))]
        _REFERENCES[key] = Reference.of(features_nd, neighbours, groups, on_progress)
    return _REFERENCES[key]


def _real_features(
    chosen: PictureSet, extractors: Sequence[Extractor], ranks: Ranks, cache: ArrayCache
) -> dict[str, np.ndarray]:
    """Features of real pictures by extractor's name, complete on rank 0."""
    keys = {e.name: f"features v1 {e.digest} {chosen.identity}" for e in extractors}
    known = _look_up(keys, ranks, cache)
    missing = ranks.agree(name for name in keys if name not in known)
    if not missing:
        return known
    wanted = [e for e in extractors if e.name in missing]
    computed = extract(chosen.pictures, len(chosen), wanted, ranks, "real pictures")
    for name, features in computed.items() if ranks.world.is_main else ():
        cache.put(keys[name], features)
    return {**known, **computed}


def _look_up(keys: Mapping[str, str], ranks: Ranks, cache: ArrayCache) -> dict[str, np.ndarray]:
    """What rank 0 has in its cache; nothing on other ranks, whose disks may hold other things."""
    if not ranks.world.is_main:
        return {}
    cached = {name: cache.get(key) for name, key in keys.items()}
    return {name: array for name, array in cached.items() if array is not None}
