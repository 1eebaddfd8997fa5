"""The nearest training pictures of given ones, over the whole training set, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from distgen.metrics.cache import ArrayCache
from distgen.metrics.features import Extractor
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import BLOCK, PictureSet

PART = 4_096
"""Training pictures whose features are in memory, and on the disk, as one piece."""
_ROWS = 1_024
"""Rows of a distance matrix in memory at once."""


@dataclass(frozen=True)
class Nearest:
    """The k nearest training pictures of each of n, the nearest first."""

    distances_nk: np.ndarray
    """Euclidean distances of their features, float64."""
    places_nk: np.ndarray
    """Their places in the training set, int64."""


def nearest(
    features_nd: np.ndarray,
    training: PictureSet,
    extractor: Extractor,
    neighbours: int,
    ranks: Ranks,
    cache: ArrayCache,
    own_n: np.ndarray | None = None,
) -> Nearest:
    """Search the training pictures, each rank some of them. Collective; the same on every rank.

    Which pictures are near is found in float32; how near they are comes from differences in
    float64, so that a copy is at a distance of about zero, as rounding in the features allows.

    Args:
        features_nd: Features of the pictures in question, on every rank.
        training: Where to search; at least `neighbours` pictures, and one more with `own_n`.
        extractor: What made the features.
        neighbours: k.
        ranks: Who searches.
        cache: Keeps features of training pictures; each rank's own.
        own_n: Place in the training set of each picture in question, which is no neighbour of
            itself; None: they are no training pictures.
    """
    count = len(features_nd)
    best = Nearest(
        np.full((count, neighbours), np.inf), np.full((count, neighbours), -1, dtype=np.int64)
    )
    for rows in ranks.blocks(len(training), PART, f"{extractor.name} of training pictures"):
        part_md = _features(training, rows, extractor, cache)
        places_m = training.indices_n[rows.start : rows.stop]
        best = _merged([best, _search(features_nd, part_md, places_m, neighbours, own_n)])
    if ranks.world.size == 1:
        return best
    # Rows of all ranks come one below the other, and places fit a float exactly.
    joined = ranks.gather(np.stack([best.distances_nk, best.places_nk.astype(np.float64)])[None])
    return _merged([Nearest(each[0], each[1].astype(np.int64)) for each in joined])


def _features(
    training: PictureSet, rows: range, extractor: Extractor, cache: ArrayCache
) -> np.ndarray:
    key = f"part v1 {extractor.digest} {training.identity} {rows.start} {rows.stop}"
    known = cache.get(key)
    if known is not None:
        return known
    starts = range(rows.start, rows.stop, BLOCK)
    blocks = [extractor(training.pictures(range(s, min(s + BLOCK, rows.stop)))) for s in starts]
    features = np.concatenate(blocks)
    cache.put(key, features)
    return features


def _search(
    features_nd: np.ndarray,
    part_md: np.ndarray,
    places_m: np.ndarray,
    neighbours: int,
    own_n: np.ndarray | None,
) -> Nearest:
    """The nearest among one part of the training pictures."""
    kept = min(neighbours, len(part_md))
    # Distances do not change when both sets are moved, and rounding is least around the origin.
    centre = part_md.mean(axis=0, dtype=np.float64)
    columns = torch.from_numpy((part_md - centre).astype(np.float32))
    own_place = {int(place): column for column, place in enumerate(places_m)}
    distances, places = [], []
    for start in range(0, len(features_nd), _ROWS):
        chunk_nd = features_nd[start : start + _ROWS]
        rough = torch.cdist(torch.from_numpy((chunk_nd - centre).astype(np.float32)), columns)
        own = [] if own_n is None else own_n[start : start + _ROWS].tolist()
        for row, place in enumerate(own):
            if place in own_place:
                rough[row, own_place[place]] = torch.inf
        found = rough.topk(kept, dim=1, largest=False)
        chosen = found.indices.numpy()
        difference = part_md[chosen].astype(np.float64) - chunk_nd[:, None].astype(np.float64)
        exact = np.sqrt(np.square(difference).sum(axis=2))
        exact[~np.isfinite(found.values.numpy())] = np.inf
        distances.append(exact)
        places.append(places_m[chosen])
    # As many columns as asked for, so that a short last part merges with the others.
    missing = [(0, 0), (0, neighbours - kept)]
    return Nearest(
        np.pad(np.concatenate(distances), missing, constant_values=np.inf),
        np.pad(np.concatenate(places), missing, constant_values=-1),
    )


def _merged(parts: list[Nearest]) -> Nearest:
    """The nearest of all parts; of equal ones those of earlier parts."""
    distances = np.concatenate([part.distances_nk for part in parts], axis=1)
    places = np.concatenate([part.places_nk for part in parts], axis=1)
    neighbours = parts[0].distances_nk.shape[1]
    order = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
    return Nearest(
        np.take_along_axis(distances, order, axis=1), np.take_along_axis(places, order, axis=1)
    )
