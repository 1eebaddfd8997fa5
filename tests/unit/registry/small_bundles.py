"""What the tests of this room make bundles from, and how they see bad ones refused."""

from __future__ import annotations

import hashlib

import pytest
import torch

from distgen.core.errors import EXIT_USAGE, DataError
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location
from distgen.metrics.card import Card, DataSource
from distgen.metrics.scores import ExtractorScores, Scores
from distgen.models import FAMILIES, GANConfig, build_networks
from distgen.registry import load_bundle
from distgen.registry.layout import MANIFEST

SPEC = ImageSpec(height=16, width=16, mode="L", classes=("zero", "one", "two"))
GAN = GANConfig(latent_dim=4, width=8, conditional=True)


def card(distance: float, *, fingerprint: str = "a" * 64, samples: int = 1000) -> Card:
    """A card whose headline is `distance`."""

    def scores(frechet_distance: float) -> Scores:
        return Scores(
            frechet_distance=frechet_distance, precision=0.5, recall=0.5, density=0.5, coverage=0.5
        )

    return Card(
        family="gan",
        data=DataSource(name="digits", fingerprint=fingerprint),
        samples=samples,
        floor_split="test",
        neighbours=5,
        extractors=(
            ExtractorScores(
                name="efficientnet-lite0",
                digest="b" * 64,
                dimensions=1280,
                generated=scores(distance),
                floor=scores(1.0),
            ),
        ),
        seed=0,
        seconds=1.0,
    )


def state_of(config: object, spec: ImageSpec, seed: int = 0) -> dict[str, torch.Tensor]:
    """The served network's fresh state."""
    torch.manual_seed(seed)
    family = FAMILIES[config.family]
    return build_networks(config, spec)[family.served].state_dict()


def refused(place: Location, *words: str) -> str:
    """The message with which loading ends; it must hold all `words`, a place and a remedy."""
    with pytest.raises(DataError) as caught:
        load_bundle(place)
    text = str(caught.value)
    for word in (*words, "try:"):
        assert word in text, text
    assert caught.value.exit_code == EXIT_USAGE
    return text


def reseal(place: Location) -> None:
    """Make the manifest vouch for whatever the files hold now."""
    manifest = (place / MANIFEST).read_json()
    for name in manifest["files"]:
        data = (place / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        manifest["files"][name] = {"bytes": len(data), "sha256": digest}
    (place / MANIFEST).write_json(manifest)
