from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distgen.core.storage import Location, locate
from distgen.registry import write_bundle
from tests.unit.registry.small_bundles import GAN, SPEC, card, state_of


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Location]:
    """Writes small bundles: `make_bundle("folder", distance=21.3, seed=4)`."""

    def make(
        folder: str, distance: float | None = 20.0, *, seed: int = 0, name: str = "digits-gan", **kw
    ) -> Location:
        place = locate(tmp_path / folder)
        write_bundle(
            place,
            model_config=GAN,
            spec=SPEC,
            state=state_of(GAN, SPEC, seed),
            card=None if distance is None else card(distance, **kw),
            samples_png=b"\x89PNG not looked at",
            name=name,
            images_seen=1280,
        )
        return place

    return make
