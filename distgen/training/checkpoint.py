"""Checkpoints: all that a run needs to go on as if nothing had happened, and no pickle.

A checkpoint is a folder `<images_seen, 12 digits>` with one `<part>.safetensors` and one
`<part>.json` for each named part, and `manifest.json`, written last, with the size and SHA-256 of
each file. A folder without a manifest is not a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Literal

from pydantic import NonNegativeInt
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from distgen.core.config import Config
from distgen.core.errors import DataError
from distgen.core.part import Part
from distgen.core.storage import Location, sha256_of
from distgen.registry.layout import FileEntry
from distgen.training.snapshot import Snapshot, as_files, put_tensors, take

MAX_MANIFEST_BYTES = 1 << 20
# What loading raises for bytes that are no tensors, JSON of other shapes or levels without end, and
# values that are not those of the part.
_UNFIT = (SafetensorError, RuntimeError, ValueError, LookupError, TypeError, AttributeError)


class Manifest(Config):
    """Every other file of a checkpoint."""

    format: Literal[1] = 1
    """Version of this layout."""
    images_seen: NonNegativeInt
    """The clock."""
    healthy: bool = True
    """Whether a run that goes wrong may return here."""
    rollbacks: NonNegativeInt = 0
    """How often the run had been rolled back when this was written."""
    parts: tuple[str, ...]
    """Names of what must survive."""
    files: dict[str, FileEntry]
    """Two for each part."""


def save(
    folder: Location,
    images_seen: int,
    parts: Mapping[str, Part],
    *,
    healthy: bool = True,
    rollbacks: int = 0,
    passed_over: Collection[str] = (),
) -> Location:
    """Write a checkpoint below `folder`; it counts from the moment its manifest is there."""
    snapshot = take(images_seen, parts, healthy=healthy, rollbacks=rollbacks)
    return write(folder, snapshot, passed_over)


def write(folder: Location, snapshot: Snapshot, passed_over: Collection[str] = ()) -> Location:
    """Write a snapshot below `folder` as a checkpoint, in any thread.

    Args:
        folder: Where checkpoints are.
        snapshot: What is written.
        passed_over: Names of those that this run's start has found to be of no use; they go, once
            there is a better one. Not all that are newer: where a rank was cut off, its successor
            may have come further, and what the old one still has in hand must not undo that.
    """
    checkpoint = folder / f"{snapshot.images_seen:012d}"
    checkpoint.remove()
    checkpoint.make_dir()
    files: dict[str, FileEntry] = {}
    for file, chunks in as_files(snapshot):
        (checkpoint / file).write_parts(chunks)
        size = sum(len(chunk) for chunk in chunks)
        files[file] = FileEntry(bytes=size, sha256=sha256_of(*chunks))
    manifest = Manifest(
        images_seen=snapshot.images_seen,
        healthy=snapshot.healthy,
        rollbacks=snapshot.rollbacks,
        parts=tuple(snapshot.parts),
        files=files,
    )
    (checkpoint / "manifest.json").write_text(manifest.model_dump_json(indent=2))
    for name in passed_over:
        if name != checkpoint.name:
            delete(folder / name)
    return checkpoint


def complete(folder: Location) -> list[Location]:
    """The checkpoints below `folder` that have a manifest, oldest first."""
    names = [place for place in folder.list() if place.name.isdigit()]
    return [place for place in names if (place / "manifest.json").is_file()]


def manifests(folder: Location) -> list[Manifest]:
    """The manifests of all complete checkpoints that can be read, oldest first."""
    found = []
    for checkpoint in complete(folder):
        with suppress(DataError):
            found.append(_read_manifest(checkpoint))
    return found


def load_part(folder: Location, images_seen: int, name: str, part: Part) -> None:
    """Restore one part of one checkpoint.

    Raises:
        DataError: The checkpoint is missing or damaged, or its part is not this one.
    """
    checkpoint = folder / f"{images_seen:012d}"
    _, blobs = _read_verified(checkpoint)
    _restore(checkpoint, (name,), blobs, {name: part})


def load_latest(
    folder: Location,
    parts: Mapping[str, Part],
    on_damaged: Callable[[Location, DataError], None],
    counts: Callable[[Manifest], bool] = lambda manifest: True,  # noqa: ARG005
) -> int:
    """Restore the newest undamaged checkpoint and return its images seen, 0 where there is none.

    A damaged one is reported to `on_damaged` and the one before it is used; one that does not
    count is passed over.

    Raises:
        DataError: The checkpoint is whole but its parts are not these parts, or all checkpoints
            are damaged.
    """
    damage: DataError | None = None
    for checkpoint in reversed(complete(folder)):
        try:
            manifest, blobs = _read_verified(checkpoint)
        except DataError as error:
            damage = damage or error
            on_damaged(checkpoint, error)
            continue
        if not counts(manifest):
            continue
        _restore(checkpoint, manifest.parts, blobs, parts)
        return manifest.images_seen
    if damage is not None:
        raise DataError(
            "No checkpoint of this run can be used.",
            where=damage.where,
            cause=f"{damage.what} {damage.cause or ''}".rstrip(),
            remedy="bring the files back, or train from the beginning with --fresh",
        ) from damage
    return 0


def prune(folder: Location, keep: int, besides: Collection[int] = ()) -> None:
    """Delete all but the newest `keep` checkpoints, and unfinished ones older than these.

    Args:
        folder: Where they are.
        keep: How many stay.
        besides: The clocks of others that stay.
    """
    kept = complete(folder)[-keep:]
    if not kept:
        return
    for place in folder.list():
        if not place.name.isdigit() or int(place.name) in besides:
            continue
        if place.name < kept[0].name:
            delete(place)


def delete(checkpoint: Location) -> None:
    """Delete a checkpoint, its manifest first."""
    # Without its manifest a half-deleted folder is no longer taken for a checkpoint.
    (checkpoint / "manifest.json").remove()
    checkpoint.remove()


def _restore(
    checkpoint: Location,
    found: tuple[str, ...],
    blobs: Mapping[str, bytes],
    parts: Mapping[str, Part],
) -> None:
    remedy = "give the run another name, or train with --fresh"
    if set(found) != set(parts):
        raise DataError(
            "The checkpoint does not fit this job.",
            where=str(checkpoint),
            cause=f"only in the checkpoint: {sorted(set(found) - set(parts)) or 'nothing'}; "
            f"only in the job: {sorted(set(parts) - set(found)) or 'nothing'}",
            remedy=remedy,
        )
    for name, part in parts.items():
        try:
            tensors = load_tensors(blobs[f"{name}.safetensors"])
            part.load_state_dict(put_tensors(json.loads(blobs[f"{name}.json"]), tensors))
        except _UNFIT as error:
            raise DataError(
                f"Part {name!r} of the checkpoint does not fit this job.",
                where=str(checkpoint),
                cause=" ".join(str(error).split()),
                remedy=remedy,
            ) from error


def _read_manifest(checkpoint: Location) -> Manifest:
    place = checkpoint / "manifest.json"
    checkpoint.refuse_link("a run's checkpoints")
    place.refuse_link("a run's checkpoints")
    try:
        if place.size() > MAX_MANIFEST_BYTES:
            raise ValueError(f"it is larger than {MAX_MANIFEST_BYTES:,} bytes")
        manifest = Manifest.model_validate(place.read_json())
        if manifest.images_seen != int(checkpoint.name):
            raise ValueError(f"images_seen is {manifest.images_seen}")
        needed = {f"{part}.{end}" for part in manifest.parts for end in ("safetensors", "json")}
        if needed != manifest.files.keys() or any("/" in file for file in needed):
            raise ValueError("its files are not those of its parts")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "The checkpoint's manifest cannot be read.", where=str(checkpoint), cause=repr(error)
        ) from error
    return manifest


def _read_verified(checkpoint: Location) -> tuple[Manifest, dict[str, bytes]]:
    manifest = _read_manifest(checkpoint)
    blobs: dict[str, bytes] = {}
    for file, expected in manifest.files.items():
        place = checkpoint / file
        place.refuse_link("a run's checkpoints")
        try:
            # The size first: a file that is not what it was may be larger than memory.
            data = place.read_bytes() if place.size() == expected.bytes else None
        except OSError as error:
            raise DataError(
                f"{file!r} is missing from the checkpoint.", where=str(checkpoint)
            ) from error
        if data is None or sha256_of(data) != expected.sha256:
            raise DataError(
                f"{file!r} in the checkpoint is damaged.",
                where=str(checkpoint),
                cause="its size or SHA-256 is not the manifest's",
            )
        blobs[file] = data
    return manifest, blobs
