"""The `data` section of a job file, and what it opens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distgen.core.config import Config
from distgen.core.secrets import Place
from distgen.data.index import open_shard_set
from distgen.data.keeping.cache import CACHE_BUDGET_MIB, Cache
from distgen.data.keeping.disk import DISK_GIB
from distgen.data.streaming.bad import BAD_BUDGET, OnError, Tolerance
from distgen.data.streaming.mixed import Pictures, mix, require_same
from distgen.data.view import FilterConfig


def _local_folder(path: str) -> str:
    if not path.startswith(("/", "~")):
        raise ValueError("it has to be a path that begins with / or ~, the same on every host")
    return path


LocalFolder = Annotated[str, AfterValidator(_local_folder)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class AugmentConfig(Config):
    """Random changes to training pictures, drawn from (seed, position, sample); all are off at 0.

    Figures are limits: how much a picture gets is drawn evenly up to them, in both directions.
    Evaluation sees pictures as they are.
    """

    flip: Share = 0.0
    """Share of pictures that are mirrored left to right; 0.5 is usual."""
    shift: NonNegativeInt = 0
    """Pixels by which pictures move, whole ones: with `padding`, the random crop of a padded
    picture."""
    padding: Literal["reflect", "edge", "zero"] = "reflect"
    """What comes into the picture from outside: its mirror image, its last pixels, or grey."""
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Degrees about the middle."""
    crop: Annotated[float, Field(ge=0.0, le=0.9)] = 0.0
    """Share of both sides that is cut away; the rest is enlarged to the full size."""
    brightness: Share = 0.0
    """Share of the range from black to white that is added or taken."""
    contrast: Share = 0.0
    """Share by which distances to grey grow or shrink."""
    saturation: Share = 0.0
    """Share by which colours grow or fade."""
    cutout: Share = 0.0
    """Side of a grey square that covers a part of each picture, as a share of the smaller side."""

    @property
    def resamples(self) -> bool:
        """Whether pixels are interpolated."""
        return bool(self.rotate or self.crop)

    @property
    def recolours(self) -> bool:
        """Whether colours change."""
        return bool(self.brightness or self.contrast or self.saturation)

    @property
    def enabled(self) -> bool:
        """Whether anything happens at all."""
        moves = bool(self.flip or self.shift or self.cutout)
        return moves or self.resamples or self.recolours


class MixEntry(Config):
    """One of several shard sets that are trained on together."""

    shards: Annotated[Place, Field(min_length=1)]
    """Path or URL of a shard set."""
    weight: PositiveFloat = 1.0
    """How often its samples come, relative to the other sets of the mix."""


class DataConfig(Config):
    """Where the pictures come from and how they are delivered."""

    shards: Annotated[Place, Field(min_length=1)]
    """Path or URL of a shard set; a split is a subfolder (`train`, `test`). With a mix, the set
    that the run is measured against; left out there, the first of the mix."""
    mix: tuple[MixEntry, ...] = ()
    """Shard sets to train on instead of `shards`, each as often as its weight says."""
    filter: FilterConfig = FilterConfig()
    """Which samples are trained on."""
    balance: Literal["none", "classes"] = "none"
    """`classes`: every class of a set comes equally often, however many samples it has."""
    lanes: PositiveInt = 64
    """Places of the set that are read side by side; part of the order."""
    shuffle_window: PositiveInt = 16_384
    """Samples, over all lanes, among which neighbours are shuffled; part of the order."""
    decode_threads: PositiveInt = 2
    """Threads of each worker that read and decode; one where pictures are very small."""
    prefetch_batches: PositiveInt = 4
    """Batches that are made ready ahead of training."""
    cache: Cache = "auto"
    """Keep decoded pictures in memory that the workers of a host share: `memory` as many as fit
    the budget, `auto` all or none, `none` none. `disk`: keep the bytes of remote shards on each
    host's disk, for later epochs and runs; sets that are no URL need none."""
    cache_budget_mib: NonNegativeInt = CACHE_BUDGET_MIB
    """Memory of each host, in MiB, for decoded pictures."""
    cache_dir: LocalFolder | None = None
    """Folder for what `cache: disk` keeps, on a disk of the host itself; left out:
    `$XDG_CACHE_HOME/distgen`, or `~/.cache/distgen`."""
    cache_disk_gib: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = DISK_GIB
    """Disk of each host, in GiB, for what `cache: disk` keeps of all sets and runs together."""
    on_error: OnError = "fail"
    """What a damaged sample does: `fail` ends the run; `substitute` takes the next sound one in its
    place and notes it in `bad_samples.jsonl`."""
    bad_budget: Annotated[float, Field(ge=0.0)] = BAD_BUDGET
    """Damaged samples up to which a run goes on: a count, or below 1 a share of the set."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes to the pictures, made on the device."""

    @property
    def tolerance(self) -> Tolerance:
        """What a damaged sample does, and how many may be."""
        return Tolerance(self.on_error, self.bad_budget)

    @model_validator(mode="before")
    @classmethod
    def _measured_against_the_first(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("mix") and "shards" not in raw:
            first = raw["mix"][0] if isinstance(raw["mix"], list | tuple) else None
            if isinstance(first, dict) and "shards" in first:
                return {**raw, "shards": first["shards"]}
        return raw


def open_data(config: DataConfig, split: str = "train") -> Pictures:
    """What the `data` section of a job file trains on.

    Raises:
        UsageError: A set is missing, or the sets, the filter and the balance do not fit together.
        DataError: A manifest or an index is damaged.
    """
    if not config.mix and config.filter.takes_all and config.balance == "none":
        return open_shard_set(config.shards, split)
    entries = [(entry.shards, entry.weight) for entry in config.mix] or [(config.shards, 1.0)]
    weighted = [(open_shard_set(url, split), weight) for url, weight in entries]
    if config.mix:
        require_same(open_shard_set(config.shards, split), weighted[0][0])
    return mix(weighted, wanted=config.filter, balance_classes=config.balance == "classes")
