"""`distgen data build`: from a source of pictures to a shard set, or one for each split."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from distgen.core.errors import UsageError, did_you_mean
from distgen.core.spec import MAX_SIDE, MODES, ImageSpec, Mode
from distgen.core.storage import Location, locate
from distgen.data.building.clips import ClipContent, Cut
from distgen.data.building.convert import (
    ENCODINGS,
    FITS,
    Encoded,
    Encoding,
    Fit,
    Target,
    convert,
)
from distgen.data.building.cut import chunk_of, cut_of, cut_videos, spec_of
from distgen.data.building.journal import Journal, Step, digest_of, going_on
from distgen.data.building.pack import SHARD_BYTES, SHARD_SAMPLES, SetWriter, check_room
from distgen.data.building.processes import Staged
from distgen.data.building.sources import Item, Source, SourceOptions, open_source
from distgen.data.building.sources.item import ClipSource
from distgen.data.building.survey import (
    check_apart,
    fields_of,
    nothing_readable,
    parts_of,
    size_and_mode,
)
from distgen.data.building.work import Progress, Rejected, Work
from distgen.data.index import Manifest

REJECTED_NAME = "rejected.csv"
DUPLICATES_NAME = "duplicates.csv"


@dataclass(frozen=True)
class Built:
    """What `build` made: a manifest for each split (None: no splits), and what was left out."""

    location: Location
    manifests: dict[str | None, Manifest]
    rejected: int
    """Files that no rule could bring into the set."""
    duplicates: int
    """Files with the same content as one that came before."""
    resumed: int
    """Shards that an earlier build with the same arguments had finished."""
    left_out: int = 0
    """Frames at the ends of videos that do not fill a clip."""

    @property
    def num_samples(self) -> int:
        """Samples in all splits."""
        return sum(manifest.num_samples for manifest in self.manifests.values())


def build(
    source: str | Source,
    dst: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    mode: Mode | None = None,
    fit: Fit = "crop",
    frames: int | None = None,
    stride: int = 1,
    split: float | None = None,
    encoding: Encoding = "auto",
    quality: int = 95,
    workers: int | None = None,
    shard_samples: int = SHARD_SAMPLES,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    drop_duplicates: bool = False,
    options: SourceOptions | None = None,
    executor: Executor | None = None,
    on_progress: Progress | None = None,
) -> Built:
    """Build a shard set at `dst`, or `dst/train` and `dst/test` where there are splits.

    A build that was killed and is started again with the same arguments on the same files goes on
    from the last finished shard, and the result is the same to the byte.

    Args:
        source: What `data.sources.open_source` opens, or an opened source.
        dst: Path or URL of the folder to write.
        size: Side, or (height, width), in pixels; None: the source's own.
        mode: `L` or `RGB`; None: the source's own.
        fit: How pictures of other proportions are brought to the size; see `data.convert`.
        frames: Frames of a clip: the source is a folder of videos, animations or arrays of frames,
            which are cut into clips; see `data.clips`. None: it holds pictures, or clips already.
        stride: Every how many-th frame of a video is taken.
        split: Share of the pictures, or videos, that become `test`, chosen by a hash of their
            keys; 0 for none; None: as the source prefers.
        encoding: `png`, `jpg`, or `auto`: JPEG for what came as JPEG, PNG for the rest; clips are
            arrays, with `auto` only.
        quality: Of the JPEGs that have to be written, 1 to 100.
        workers: Threads, or processes where these do more (see `data.processes`), that decode,
            convert and encode; None: one for each core.
        shard_samples: Samples after which a new shard begins.
        shard_bytes: Bytes after which a new shard begins.
        overwrite: Replace the shard set that is there, which stays until the new one is whole.
        drop_duplicates: Leave out files with the same content as one that came before.
        options: How the source is read.
        executor: Who does the work instead; what it is given can be pickled.
        on_progress: Told about every chunk.

    Raises:
        UsageError: The source, an option or the destination cannot be used.
        DataError: Not one picture or video could be read, or a file that holds many cannot be.
    """
    cut = cut_of(frames, stride, encoding)
    shape = (size, size) if isinstance(size, int) else size
    _check_choices(mode=(mode, MODES), fit=(fit, FITS), encoding=(encoding, ENCODINGS))
    _check_ranges(
        size=(shape or (1, 1), 1, MAX_SIDE),
        split=((split or 0.0,), 0.0, 0.9),
        quality=((quality,), 1, 100),
        workers=((workers or 1,), 1, 1024),
        shard_samples=((shard_samples,), 1, None),
        shard_bytes=((shard_bytes,), 1, None),
    )
    location = locate(dst)
    check_room(location, overwrite)
    report = on_progress or (lambda _stage, _done, _total: None)
    if isinstance(source, str):
        opened = open_source(source, options, frames=frames, workers=workers, report=report)
    else:
        opened = source
    if isinstance(opened, ClipSource):
        cut, frames = _whole_clips(opened, cut, encoding)
    parts = parts_of(opened, split, report)
    if isinstance(source, str):
        check_apart(source, opened, location, parts)
    workers = workers or os.cpu_count() or 1
    # A chunk in work and one waiting for each worker: memory does not grow with the pictures.
    ahead = 2 * workers
    left_out = 0
    # To read headers is other work than to convert, and processes may pay for one of them only.
    with contextlib.nullcontext(executor) if executor else Staged(workers) as hands:
        survey = Work(hands, ahead, report)
        if cut is not None:
            parts, left_out = cut_videos(parts, cut, survey)
        height, width, mode = size_and_mode(opened, parts, shape, mode, frames, survey)
    _check_ranges(size=((height, width), 1, MAX_SIDE))
    target = Target(height, width, mode, fit, encoding, quality, frames)
    image = spec_of(target, opened.classes)
    recipe = _Recipe(
        opened.name, parts, target, image, shard_samples, shard_bytes, drop_duplicates, left_out
    )
    with contextlib.nullcontext(executor) if executor else Staged(workers) as hands:
        work = Work(hands, ahead, report, chunk_of(image))
        return _make(recipe, location, work, overwrite=overwrite)


@dataclass(frozen=True)
class _Recipe:
    """All that the bytes of a set follow from."""

    name: str
    parts: dict[str | None, Sequence[Item]]
    target: Target
    image: ImageSpec
    shard_samples: int
    shard_bytes: int
    drop_duplicates: bool
    left_out: int

    def digest(self) -> str:
        """What a build that goes on has to have in common with the one that was killed."""
        options = {
            "name": self.name,
            "image": self.image.model_dump_json(),
            "target": self.target,
            "limits": (self.shard_samples, self.shard_bytes),
            "drop_duplicates": self.drop_duplicates,
        }
        return digest_of(options, self.parts)

    def writer(self, place: Location, split: str | None) -> SetWriter:
        """Writes one of the splits."""
        items, labelled = self.parts[split], bool(self.image.classes)
        return SetWriter(
            place / split if split else place,
            name=self.name,
            image=self.image,
            fields=fields_of(items, self.target, labelled=labelled),
            split=split,
            shard_samples=self.shard_samples,
            shard_bytes=self.shard_bytes,
        )


def _make(recipe: _Recipe, location: Location, work: Work, *, overwrite: bool) -> Built:
    """Convert all items into a set at `location`, from where a build like this one was killed."""
    with contextlib.ExitStack() as stack:
        place, journal = stack.enter_context(going_on(location, overwrite, recipe.digest()))
        writers = {
            split: stack.enter_context(recipe.writer(place, split)) for split in recipe.parts
        }
        filling = _Filling(recipe.target, work, journal, recipe.drop_duplicates)
        for split, items in recipe.parts.items():
            filling.fill(writers[split], items)
        # The lists come before the manifests: a set that is there is complete.
        rejected = [each for step in filling.steps for each in step.rejected]
        duplicates = [each for step in filling.steps for each in step.duplicates]
        _list(place / REJECTED_NAME, ("path", "reason"), rejected)
        _list(place / DUPLICATES_NAME, ("path", "same_as"), duplicates)
        manifests = {split: writer.commit() for split, writer in writers.items()}
    for file, rows in ((REJECTED_NAME, rejected), (DUPLICATES_NAME, duplicates)):
        if not rows:
            (location / file).remove()
    left_out = recipe.left_out
    return Built(location, manifests, len(rejected), len(duplicates), filling.resumed, left_out)


class _Filling:
    """Converts items and adds them in order, split by split."""

    def __init__(self, target: Target, work: Work, journal: Journal, drop: bool) -> None:
        self.steps: list[Step] = []
        self.resumed = 0
        self._target = target
        self._work = work
        self._journal = journal
        self._drop = drop
        self._seen: dict[str, str] = {}

    def fill(self, writer: SetWriter, items: Sequence[Item]) -> None:
        """All items of a split into its writer, from the last finished shard on.

        Raises:
            DataError: Not one could be read.
        """
        begun = len(self.steps)
        for finished, step in self._journal.steps(writer.split):
            writer.take(finished)
            self._seen |= step.seen
            self._keep(step)
            self.resumed += 1
        start = self.steps[-1].items if len(self.steps) > begun else 0
        step = Step()
        work = partial(_convert, target=self._target)
        stage = writer.split or ("pictures" if self._target.frames is None else "clips")
        results = self._work.in_order(stage, work, items, start)
        for position, (item, result) in enumerate(results, start):
            if isinstance(result, Rejected):
                step.rejected.append((result.path, " ".join(result.reason.split())))
                continue
            digest, picture = result
            first = self._seen.get(digest)
            if first is not None and self._drop:
                step.duplicates.append((item.origin, first))
                continue
            if writer.is_shard_full():
                step = self._finish_shard(writer, step, position)
            if first is not None:
                step.duplicates.append((item.origin, first))
            else:
                self._seen[digest] = step.seen[digest] = item.origin
            writer.add(item.key, {picture.field: picture.data}, item.label)
        step = self._finish_shard(writer, step, len(items))
        self.steps.append(step)
        rejected = [each for step in self.steps[begun:] for each in step.rejected]
        if len(rejected) == len(items):
            raise nothing_readable([Rejected(*each) for each in rejected], self._target.frames)

    def _finish_shard(self, writer: SetWriter, step: Step, items: int) -> Step:
        """Remember the shard that is finished, if any; returns the step that begins."""
        finished = writer.next_shard()
        if finished is None:
            return step
        step.items = items
        self._journal.add(writer.split, finished, step)
        self._keep(step)
        return Step()

    def _keep(self, step: Step) -> None:
        """Count a step; what was seen in it is known already, and would be held twice."""
        step.seen = {}
        self.steps.append(step)


def _whole_clips(source: ClipSource, cut: Cut | None, encoding: Encoding) -> tuple[None, int]:
    """That nothing is to be cut, and the frames of a clip.

    Raises:
        UsageError: Other clips are asked for than the source has.
    """
    cut_of(source.frames, 1, encoding)
    if cut is not None and cut != Cut(source.frames):
        raise UsageError(
            f"These clips have {source.frames} frames, of which none can be left out.",
            remedy="leave out --stride",
        )
    return None, source.frames


def _convert(item: Item, target: Target) -> tuple[str, Encoded]:
    """A digest of the content, and the picture or clip for the shard."""
    if isinstance(item.content, ClipContent) and not item.refused:
        clip = item.content.encoded(target)
        return _digest(clip.data), clip
    content = item.load()
    plain = (
        content if isinstance(content, bytes) else repr(content.shape).encode() + content.tobytes()
    )
    return _digest(plain), convert(content, target)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _list(place: Location, header: tuple[str, str], rows: Sequence[tuple[str, str]]) -> None:
    if not rows:
        return
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    place.write_bytes(text.getvalue().encode(errors="surrogateescape"))


def _check_choices(**options: tuple[str | None, tuple[str, ...]]) -> None:
    for name, (value, choices) in options.items():
        if value is not None and value not in choices:
            raise UsageError(f"--{name} {value!r} is unknown.", remedy=did_you_mean(value, choices))


def _check_ranges(**options: tuple[tuple[float, ...], float, float | None]) -> None:
    for name, (values, low, high) in options.items():
        if any(value < low or (high is not None and value > high) for value in values):
            given = "x".join(str(value) for value in values)
            limits = f"from {low} to {high}" if high is not None else f"at least {low}"
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is {given}; it has to be {limits}.")
