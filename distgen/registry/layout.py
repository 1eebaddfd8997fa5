"""What a bundle is made of, and the checks that its small files pass."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, ValidationError

from distgen.core.config import Config
from distgen.core.errors import DataError, did_you_mean
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, sha256_of
from distgen.metrics.card import Card
from distgen.models import FAMILIES, ModelConfig

FORMAT: Literal["distgen-bundle"] = "distgen-bundle"
SCHEMA_VERSION = 1

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "card.json"
README = "README.md"
SAMPLES = "samples.png"
REQUIRED = (WEIGHTS, CONFIG)
OPTIONAL = (CARD, README, SAMPLES)

MAX_MANIFEST_BYTES = 64 << 10
MAX_SMALL_FILE_BYTES = 64 << 20
"""More than this is read of no file but the weights, whose size the model itself determines."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class FileEntry(Config):
    """One file of a bundle."""

    bytes: NonNegativeInt
    """Size of the file."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the whole file."""


class BundleManifest(Config):
    """Every other file of the bundle. Written last; its own SHA-256 is the bundle's digest."""

    format: Literal["distgen-bundle"] = FORMAT
    """Marks the file as ours."""
    schema_version: Literal[1] = 1
    """Version of this layout."""
    files: dict[str, FileEntry]
    """By name, from a closed list."""


class Preprocessing(Config):
    """How pixels and numbers correspond; there is one way, and it is written down."""

    layout: Literal["nchw"] = "nchw"
    """Order of a tensor's axes."""
    scale: Literal["uint8 / 127.5 - 1"] = "uint8 / 127.5 - 1"
    """From bytes to what the networks see."""


class BundleConfig(Config):
    """What builds the network that the weights belong to. Names a family, never any code."""

    schema_version: Literal[1] = 1
    """Version of this layout."""
    name: Name
    """What its maker calls the model."""
    model: ModelConfig
    """Family and size of the networks."""
    image: ImageSpec
    """Size, mode and class names of the pictures."""
    preprocessing: Preprocessing = Preprocessing()
    """How pixels and numbers correspond."""
    images_seen: NonNegativeInt
    """How long the model was trained."""
    distgen_version: str
    """The version that wrote the bundle."""


def damaged(place: Location, cause: str) -> DataError:
    """The error for a file whose bytes are not what they were."""
    return DataError(
        f"The bundle's {place.name} is damaged.",
        where=str(place),
        cause=cause,
        remedy="copy the bundle again from where it came from, or make it again: "
        "the same `distgen train JOB` goes on from the last checkpoint",
    )


def read_manifest(location: Location) -> tuple[BundleManifest, str]:
    """The manifest and its SHA-256, after every file in the folder was held against it.

    The folder must hold exactly the listed files, each of the listed size, and no links. Files
    whose names start with a dot, as desktops leave them, are not looked at.

    Raises:
        DataError: The manifest is missing, damaged or from a newer distgen, or the folder's
            contents differ from it.
    """
    place = location / MANIFEST
    place.refuse_link("a bundle")
    if not place.is_file():
        raise DataError(
            f"There is no bundle here: the folder has no {MANIFEST}.",
            where=str(location),
            cause="its writing did not finish, or this is another kind of folder",
            remedy="give a run's folder, a bundle's folder, or a name from `distgen models ls`",
        )
    if place.size() > MAX_MANIFEST_BYTES:
        raise damaged(place, f"it is larger than {MAX_MANIFEST_BYTES:,} bytes")
    data = place.read_bytes()
    manifest = parse_manifest(data, place)
    _check_folder(location, manifest)
    return manifest, sha256_of(data)


def parse_manifest(data: bytes, place: Location) -> BundleManifest:
    """A manifest from its bytes; `place` is named in errors.

    Raises:
        DataError: It is damaged, from a newer distgen, or lists a file that bundles do not have or
            that is too large to be what it is.
    """
    raw = _json_object(data, place)
    if raw.get("format") != FORMAT:
        raise DataError(
            "This folder is not a bundle.",
            where=str(place),
            cause=f"its manifest's format is {raw.get('format')!r}, not {FORMAT!r}",
            remedy="give a run's folder, a bundle's folder, or a name from `distgen models ls`",
        )
    _check_version(raw, place)
    for name in raw.get("files", {}):
        if name not in (*REQUIRED, *OPTIONAL):
            raise damaged(place, f"it lists {name!r}, which no bundle has")
    for name in REQUIRED:
        if name not in raw.get("files", {}):
            raise damaged(place, f"it does not list {name}")
    try:
        manifest = BundleManifest.model_validate(raw)
    except ValidationError as error:
        raise damaged(place, _first(error)) from error
    for name, entry in manifest.files.items():
        if name != WEIGHTS and entry.bytes > MAX_SMALL_FILE_BYTES:
            raise damaged(place, f"its {name} is larger than {MAX_SMALL_FILE_BYTES:,} bytes")
    return manifest


def read_checked(location: Location, name: str, manifest: BundleManifest) -> bytes:
    """A listed file's bytes.

    Raises:
        DataError: Their SHA-256 is not the manifest's.
    """
    entry, place = manifest.files[name], location / name
    data = place.read_bytes()
    found = sha256_of(data)
    if found != entry.sha256:
        raise damaged(place, f"its sha256 is {found[:12]}..., not {entry.sha256[:12]}...")
    return data


def parse_config(data: bytes, place: Location) -> BundleConfig:
    """The bundle's config from its bytes; `place` is named in errors.

    Raises:
        DataError: It is damaged, from a newer distgen, or of a family that is not known here.
    """
    raw = _json_object(data, place)
    _check_version(raw, place)
    model = raw.get("model")
    family = model.get("family") if isinstance(model, dict) else None
    if not isinstance(family, str) or family not in FAMILIES:
        raise DataError(
            f"The bundle's family {family!r} is unknown.",
            where=str(place),
            cause="a newer distgen wrote it, or the file was edited",
            remedy=did_you_mean(str(family), FAMILIES) + "; or install a newer distgen",
        )
    try:
        return BundleConfig.model_validate(raw)
    except ValidationError as error:
        raise damaged(place, _first(error)) from error


def parse_card(data: bytes, place: Location) -> Card:
    """A quality card from its bytes; `place` is named in errors.

    Raises:
        DataError: It is damaged or from a newer distgen.
    """
    raw = _json_object(data, place)
    _check_version(raw, place, key="version")
    try:
        return Card.model_validate(raw)
    except ValidationError as error:
        raise damaged(place, _first(error)) from error


def _check_folder(location: Location, manifest: BundleManifest) -> None:
    for name, entry in manifest.files.items():
        place = location / name
        place.refuse_link("a bundle")
        if not place.is_file():
            raise damaged(place, "the file is missing")
        if place.size() != entry.bytes:
            raise damaged(place, f"it has {place.size():,} bytes, not {entry.bytes:,}")
    listed = {MANIFEST, *manifest.files}
    for place in location.list():
        if place.name not in listed and not place.name.startswith("."):
            raise DataError(
                f"The bundle holds {place.name!r}, which its manifest does not list.",
                where=str(place),
                cause="a bundle's digest speaks for all that is in it",
                remedy="move the file out of the bundle's folder",
            )


def _json_object(data: bytes, place: Location) -> dict[str, Any]:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(place, f"it is not JSON: {error}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("files", {}), dict):
        raise damaged(place, "it is not a JSON object of the right shape")
    return raw


def _check_version(raw: dict[str, Any], place: Location, key: str = "schema_version") -> None:
    version = raw.get(key)
    if version == SCHEMA_VERSION:
        return
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DataError(
            f"The bundle's {place.name} is of schema version {version}; "
            f"this distgen reads version {SCHEMA_VERSION}.",
            where=str(place),
            cause="a newer distgen wrote it",
            remedy="install a newer distgen: pip install --upgrade distgen",
        )
    raise damaged(place, f"its {key} is {version!r}")


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"{key}: {first['msg']}".removeprefix(": ")
