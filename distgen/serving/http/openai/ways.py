"""Latents that a request gives, and the pictures on the way from one to others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distgen.models.latents import between
from distgen.serving.http.errors import RequestError
from distgen.serving.http.openai.fields import MAX_IMAGES, Way
from distgen.serving.making.engine import ModelInfo
from distgen.serving.making.sampler import Picture, latents_for

STEPS = 16

Vector = tuple[float, ...]


def vectors_of(given: list[float] | list[list[float]], info: ModelInfo, param: str) -> list[Vector]:
    """Latents of pictures: one vector, or several.

    Raises:
        RequestError: One has not the model's size.
    """
    several = [row for row in given if isinstance(row, list)]
    rows = several or [[value for value in given if not isinstance(value, list)]]
    for row in rows:
        if len(row) != info.latent_dim:
            raise RequestError(
                f"{param} has a vector of {len(row)} numbers. "
                f"This model takes {info.latent_dim} for a picture.",
                param=param,
            )
    return [tuple(map(float, row)) for row in rows]


def pictures_on(
    way: Way | list[int], start: Picture, info: ModelInfo, count: int
) -> tuple[Picture, ...]:
    """The pictures on a way; those at its ends are the pictures of the seeds or latents there, bit
    for bit.

    Args:
        way: Where it leads, or seeds to pass of which the first is where it begins.
        start: Where it begins; its class and controls are those of all.
        info: The model.
        count: So many, evenly apart; 1: as many as a film of it has.

    Raises:
        RequestError: It does not fit the model, or has too many pictures.
    """
    if isinstance(way, list):
        start, way = replace(start, seed=way[0]), Way(to=way[-1], through=way[1:-1])
    stops = [start, *(replace(start, seed=seed, latents=None) for seed in way.through)]
    if isinstance(way.to, int):
        stops.append(replace(start, seed=way.to, latents=None))
    else:
        stops += [replace(start, latents=to) for to in vectors_of(way.to, info, "interpolate")]
    if way.loop:
        stops.append(start)
    latents_nd = latents_for(stops, info.latent_dim)
    legs = len(stops) - 1
    if count > 1 and way.steps is not None:
        raise RequestError(
            "interpolate has steps, and n asks for separate pictures. "
            "Leave n out for one file in which they play, or leave steps out.",
            param="n",
        )
    steps = count - 1 + way.loop if count > 1 else legs * ((way.steps or STEPS) - 1)
    total = steps if way.loop else steps + 1
    if total > MAX_IMAGES:
        raise RequestError(
            f"The way has {total} pictures, and at most {MAX_IMAGES} may it have. "
            "Send fewer stops, or fewer steps.",
            param="interpolate",
        )
    pictures = []
    for step in range(total):
        leg, part = divmod(step * legs, steps)
        leg, part = (leg, part) if leg < legs else (legs - 1, steps)
        (row_d,) = between(latents_nd[leg], latents_nd[leg + 1], [part / steps])
        pictures.append(Picture(start.seed, start.label, latents=_vector(row_d)))
    return tuple(pictures)


def _vector(row_d: np.ndarray) -> Vector:
    return tuple(row_d.tolist())
