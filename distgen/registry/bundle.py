"""The servable artefact: weights, config, card and pictures, and a manifest that vouches for all.

A bundle holds no code and names none. It is written to and read from any `Location`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from distgen import __version__
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, sha256_of
from distgen.metrics.card import Card
from distgen.models import ModelConfig
from distgen.registry import weights
from distgen.registry.layout import (
    CARD,
    CONFIG,
    MANIFEST,
    OPTIONAL,
    README,
    REQUIRED,
    SAMPLES,
    WEIGHTS,
    BundleConfig,
    BundleManifest,
    FileEntry,
    parse_card,
    parse_config,
    read_checked,
    read_manifest,
)
from distgen.registry.model_card import render_readme


@dataclass(frozen=True)
class BundleInfo:
    """What a bundle says of itself; its weights have not been looked at."""

    location: Location
    digest: str
    """SHA-256 of the manifest: the model's identity."""
    manifest: BundleManifest
    config: BundleConfig
    card: Card | None

    @property
    def name(self) -> str:
        """What its maker calls the model."""
        return self.config.name

    @property
    def spec(self) -> ImageSpec:
        """Size, mode and class names of its pictures."""
        return self.config.image

    @property
    def bytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(entry.bytes for entry in self.manifest.files.values())


@dataclass(frozen=True)
class Bundle(BundleInfo):
    """A bundle that was checked to the last byte, and its network."""

    model: nn.Module
    """In evaluation mode, on the CPU, with the averaged weights; nothing in it trains."""


def write_bundle(
    location: Location,
    *,
    model_config: ModelConfig,
    spec: ImageSpec,
    state: Mapping[str, Tensor],
    card: Card | None,
    samples_png: bytes | None,
    name: str,
    images_seen: int,
) -> str:
    """Write a bundle, its manifest last, and return its digest.

    A bundle that is already here is replaced: first its manifest goes, so that at no moment the
    folder passes for a bundle that it is not.

    Args:
        location: The bundle's folder.
        model_config: The model's section of the job file.
        spec: The pictures that it makes.
        state: The served network's state, averaged over the training.
        card: Its quality, if it was measured.
        samples_png: A grid of its pictures.
        name: What to call it.
        images_seen: How long it was trained.

    Raises:
        ValueError: The state is not that of the served network.
    """
    found = weights.specs_of(state)
    expected = weights.expected_tensors(weights.skeleton(model_config, spec))
    if found != expected:
        differing = sorted(dict(found.items() ^ expected.items()))
        raise ValueError(f"the state does not fit {model_config.family}: {', '.join(differing)}")
    config = BundleConfig(
        name=name,
        model=model_config,
        image=spec,
        images_seen=images_seen,
        distgen_version=__version__,
    )
    files = {WEIGHTS: weights.serialise(state), CONFIG: _json(config)}
    if card is not None:
        files[CARD] = _json(card)
    if samples_png is not None:
        files[SAMPLES] = samples_png
    files[README] = render_readme(config, card, has_samples=samples_png is not None).encode()
    return write_files(location, files)


def write_files(location: Location, files: Mapping[str, bytes]) -> str:
    """Make a folder that holds these files and their manifest; returns the digest."""
    (location / MANIFEST).remove()
    for name in {*REQUIRED, *OPTIONAL} - files.keys():
        (location / name).remove()
    for name, data in files.items():
        (location / name).write_bytes(data)
    entries = {
        name: FileEntry(bytes=len(data), sha256=sha256_of(data)) for name, data in files.items()
    }
    manifest = _json(BundleManifest(files=entries))
    (location / MANIFEST).write_bytes(manifest)
    return sha256_of(manifest)


def inspect_bundle(location: Location) -> BundleInfo:
    """What a bundle says of itself, after all checks but those of weights and pictures.

    Raises:
        DataError: It is no bundle, or one of its files is missing, of another size, or damaged.
    """
    manifest, digest = read_manifest(location)
    config = parse_config(read_checked(location, CONFIG, manifest), location / CONFIG)
    card = None
    if CARD in manifest.files:
        card = parse_card(read_checked(location, CARD, manifest), location / CARD)
    return BundleInfo(location, digest, manifest, config, card)


def load_bundle(location: Location) -> Bundle:
    """Check a bundle to the last byte and build its network.

    Sizes, names, shapes and types are compared with those of the model that the config describes
    before memory for weights is taken, and digests before any weight is believed.

    Raises:
        DataError: It is no bundle, or one of its files is missing, unknown, linked, damaged, from a
            newer distgen, or does not fit the model.
    """
    info = inspect_bundle(location)
    network = weights.skeleton(info.config.model, info.config.image)
    place = location / WEIGHTS
    weights.check_header(place, weights.expected_tensors(network))
    for name in info.manifest.files:
        if name not in (WEIGHTS, CONFIG, CARD):
            read_checked(location, name, info.manifest)
    data = read_checked(location, WEIGHTS, info.manifest)
    return Bundle(
        info.location,
        info.digest,
        info.manifest,
        info.config,
        info.card,
        model=weights.load_into(network, data, place),
    )


def with_card(location: Location, card: Card) -> str:
    """Replace a bundle's card, and what its README says of it; returns the new digest.

    Raises:
        DataError: The bundle is damaged.
    """
    info = inspect_bundle(location)
    files = {name: read_checked(location, name, info.manifest) for name in info.manifest.files}
    files[CARD] = _json(card)
    files[README] = render_readme(info.config, card, has_samples=SAMPLES in files).encode()
    return write_files(location, files)


def _json(value: BundleConfig | BundleManifest | Card) -> bytes:
    return value.model_dump_json(indent=2).encode() + b"\n"
