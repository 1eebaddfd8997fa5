"""Pictures or clips 0 to N-1 of a model as a shard set, made by as many processes as have room."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.data
import torch

from distgen.core.errors import UsageError
from distgen.core.storage import Location, locate
from distgen.data.building.convert import Target, encode
from distgen.data.building.journal import Journal, Step, digest_of, going_on
from distgen.data.building.pack import SHARD_SAMPLES, SetWriter, check_room
from distgen.data.formats import npy
from distgen.data.index import Manifest
from distgen.launch.cluster import connect
from distgen.launch.places import fitting_workers, wait_for_place
from distgen.registry.bundle import load_bundle
from distgen.serving.making.engine import network_of
from distgen.serving.making.sampler import (
    MAX_SEED,
    MAX_TRUNCATION,
    MIN_TRUNCATION,
    Picture,
    Sampler,
    class_numbers,
    picture_seed,
)

RANGE = 256
"""Pictures that a process makes at a time, or clips where they are small."""
_RANGE_BYTES = 64 << 20
_MAX_BLOCKS = 1_000
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recipe:
    """What determines every picture, together with the bundle's weights."""

    bundle: str
    """Path or URL of the bundle's folder."""
    seed: int
    labels: tuple[int, ...]
    """Classes that pictures take in turn; empty for a model without classes."""
    truncation: float | None

    def picture(self, index: int) -> Picture:
        """Picture number `index`, wherever it is made."""
        label = self.labels[index % len(self.labels)] if self.labels else None
        return Picture(picture_seed(self.seed, index), label, self.truncation)


def generate(
    bundle: Location,
    destination: str,
    count: int,
    *,
    seed: int = 0,
    classes: Sequence[str] = (),
    truncation: float | None = None,
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
    address: str | None = None,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Manifest:
    """Write `count` pictures, or clips, as a shard set, which trains again like any other.

    Picture i is the same however many workers make it, and the same as the i-th picture that an
    endpoint returns for this seed and class. The manifest is written last: what is cut short is no
    shard set, and a set that was to be replaced is still there. The same call again goes on from
    the last shard that was finished.

    Args:
        bundle: The model.
        destination: Path or URL of the shard set's folder.
        count: How many pictures.
        seed: Another seed, other pictures.
        classes: Names that pictures take in turn; all of the model's by default.
        truncation: Bound of the latents, or None.
        workers: Processes that each hold the model; by default, and at most, as many as fit into
            the cluster, with a CPU each.
        gpus_per_worker: GPUs of each process.
        address: A Ray cluster; without one, a private one on this machine.
        overwrite: Whether a shard set that is there already is replaced.
        on_progress: Called with the pictures written so far and `count`.

    Returns:
        The shard set's manifest.

    Raises:
        UsageError: A class, the destination or a number cannot be used, or no process fits.
        DataError: The bundle is not what its manifest says.
        DistgenError: The cluster is too busy for a single process.
    """
    _check_range("count", count, 1)
    _check_range("seed", seed, 0, MAX_SEED)
    if workers is not None:
        _check_range("workers", workers, 1)
    if truncation is not None:
        _check_range("truncation", truncation, MIN_TRUNCATION, MAX_TRUNCATION)
    loaded = load_bundle(bundle)
    num_classes = network_of(loaded).num_classes
    names = loaded.spec.classes if num_classes else ()
    recipe = recipe_for(bundle.url, names, classes, seed=seed, truncation=truncation)
    location = locate(destination)
    check_room(location, overwrite)
    image = loaded.spec.model_copy(update={"classes": names})
    kind = "png" if image.frames is None else "npy"
    digest = digest_of(
        {
            "model": loaded.digest,
            "count": count,
            **asdict(replace(recipe, bundle="")),
            # Others round otherwise.
            "torch": torch.__version__,
            "device": "cuda" if gpus_per_worker else "cpu",
        },
        {},
    )
    with connect(address) as connection, ExitStack() as stack:
        room = connection.room()
        workers = fitting_workers(room, workers, gpus_per_worker)
        wait_for_place(room, gpus_per_worker)
        place, journal = stack.enter_context(going_on(location, overwrite, digest))
        writer = stack.enter_context(
            SetWriter(
                place,
                name=f"{loaded.name}-generated",
                image=image,
                fields=("cls", kind) if names else (kind,),
                shard_samples=SHARD_SAMPLES,
            )
        )
        done = 0
        for finished, step in journal.steps(None):
            writer.take(finished)
            done = step.items
        tell = on_progress or (lambda _done, _count: None)
        tell(done, count)
        each = max(1, min(RANGE, _RANGE_BYTES // math.prod(image.shape)))
        made = _stream(recipe, range(done, count), each, workers, gpus_per_worker)
        for number, (label, data) in enumerate(made, done):
            if writer.is_shard_full():
                _finish_shard(writer, journal, number)
            writer.add(f"{number:09d}", {kind: data}, label)
            if (number + 1) % each == 0 or number + 1 == count:
                tell(number + 1, count)
        _finish_shard(writer, journal, count)
        return writer.commit()


def _finish_shard(writer: SetWriter, journal: Journal, done: int) -> None:
    """Remember the shard that is finished, if any, and that so many pictures are there by then."""
    finished = writer.next_shard()
    if finished is not None:
        journal.add(None, finished, Step(items=done))


def _stream(
    recipe: Recipe, numbers: range, each: int, workers: int, gpus_per_worker: float
) -> Iterator[tuple[int, bytes]]:
    """Label and file of every picture or clip, in the order of their numbers."""
    if not numbers:
        return
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    parts = [numbers[first : first + each] for first in range(0, len(numbers), each)]
    ranges = [{"start": part.start, "stop": part.stop} for part in parts]
    made = ray.data.from_items(
        ranges, override_num_blocks=min(len(ranges), _MAX_BLOCKS)
    ).map_batches(
        _Painter,
        fn_constructor_args=(recipe,),
        batch_size=1,
        num_cpus=1,
        num_gpus=gpus_per_worker or None,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(ranges))),
    )
    for batch in made.iter_batches(batch_size=None, batch_format="numpy"):
        yield from zip(map(int, batch["label"]), batch["file"], strict=True)


class _Painter:
    """A process that holds the model and makes ranges of pictures."""

    def __init__(self, recipe: Recipe) -> None:
        bundle = load_bundle(locate(recipe.bundle))
        spec = bundle.spec
        self._recipe = recipe
        self._target = Target(spec.height, spec.width, spec.mode, encoding="png")
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self._sampler = Sampler(network_of(bundle), spec, device=device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Labels (-1 where there are none) and files of one range."""
        numbers = range(int(batch["start"][0]), int(batch["stop"][0]))
        pictures = [self._recipe.picture(number) for number in numbers]
        files = [self._file(image_hwc) for image_hwc in self._sampler.sample(pictures)]
        labels = [-1 if picture.label is None else picture.label for picture in pictures]
        return {"label": np.array(labels), "file": np.array(files, dtype=object)}

    def _file(self, image_hwc: np.ndarray) -> bytes:
        """A picture as PNG, a clip as the array that it is."""
        if image_hwc.ndim == 4:
            return npy.encode(image_hwc)
        return encode(image_hwc, self._target, lossy=False).data


def recipe_for(
    bundle: str,
    names: Sequence[str],
    classes: Sequence[str],
    *,
    seed: int,
    truncation: float | None,
) -> Recipe:
    """The recipe of pictures of some classes, out of `names`; all of them where none is wanted.

    Raises:
        UsageError: The model has no such class.
    """
    return Recipe(bundle, seed, class_numbers(classes, names), truncation)


def _check_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    if not least <= value <= most:  # so that "not a number" is refused too
        upper = "" if most == math.inf else f" and at most {most}"
        raise UsageError(
            f"{name} cannot be {value}.", remedy=f"--{name} of at least {least}{upper}"
        )
