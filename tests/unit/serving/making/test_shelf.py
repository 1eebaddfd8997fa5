"""Aliases are followed without a request that fails, and what cannot be served changes nothing."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import Counter
from pathlib import Path

import pytest

from distgen.core.spec import ImageSpec
from distgen.models import VAEConfig
from distgen.registry.layout import MANIFEST
from distgen.serving.making import spot as spots
from distgen.serving.making.loading import checked, outline
from distgen.serving.making.references import references
from distgen.serving.making.sampler import Picture
from distgen.serving.making.shelf import Shelf, UnknownModelError
from distgen.serving.making.workshop.orders import Encoding
from tests.unit.serving.making.bundles import SPEC, alone, bundle, in_loop, load, shelf_of, store_of

PICTURE = Picture(seed=7, label=1)


async def ask(shelf: Shelf, name: str | None = None) -> tuple[int | None, bytes]:
    """Version and file of one picture."""
    async with shelf.lend(name) as engine:
        return engine.info.version, (await engine.generate([PICTURE], Encoding()))[0]


def promote(store, version: int, **options) -> None:
    store.promote(store.bundle("digits", version), "digits", force=True, **options)


@in_loop
async def test_promotion_and_rollback_are_followed_and_bring_the_same_bytes_back(tmp_path: Path):
    store = store_of(tmp_path, 2)
    shelf = shelf_of(store, "digits")
    changes = []
    shelf.listeners.append(changes.append)
    first = await ask(shelf)
    promote(store, 2)
    await shelf.look()
    second = await ask(shelf)
    assert second == (2, await alone(store.bundle("digits", 2), PICTURE))
    assert second[1] != first[1]
    store.rollback("digits")
    await shelf.look()
    assert await ask(shelf) == first == (1, await alone(store.bundle("digits", 1), PICTURE))
    assert [change.kind for change in changes] == ["swap", "swap"]
    await shelf.close()


@in_loop
async def test_a_change_that_cannot_be_told_is_followed_all_the_same(tmp_path: Path, caplog):
    def full_disk(_: object) -> None:
        raise OSError(28, "No space left on device")

    store = store_of(tmp_path, 2)
    shelf = shelf_of(store, "digits")
    shelf.listeners.append(full_disk)
    promote(store, 2)
    await shelf.look()
    assert (await ask(shelf))[0] == 2
    assert "could not be told" in caplog.text
    await shelf.close()


@in_loop
async def test_a_request_in_flight_keeps_the_engine_it_was_lent(tmp_path: Path):
    store = store_of(tmp_path, 2)
    shelf = shelf_of(store, "digits")
    async with shelf.lend() as lent:
        promote(store, 2)
        await shelf.look()
        assert (await ask(shelf))[0] == 2
        file = (await lent.generate([PICTURE], Encoding()))[0]
    assert file == await alone(store.bundle("digits", 1), PICTURE)
    assert len(shelf._memory._held) == 1, "it has left memory with its last request"
    await shelf.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        await lent.generate([PICTURE], Encoding())  # nobody has it, so its threads have ended


@in_loop
async def test_a_model_is_described_in_full_before_and_after_it_is_loaded(tmp_path: Path):
    bundle(tmp_path / "gan", spec=SPEC)
    grey = ImageSpec(height=16, width=16, mode="L")
    bundle(tmp_path / "vae", spec=grey, model=VAEConfig(latent_dim=20, width=8))
    named = [f"{name}={tmp_path / name}" for name in ("gan", "vae")]
    sizes = [outline(found.standing().champion, "x").memory_bytes for found in references(named)]
    shelf = Shelf.of(references(named), load, max(sizes))
    gan, vae = shelf.models()
    assert (gan.latent_dim, gan.leading_latents) == (4, (0, 1, 2, 3))
    assert gan.capabilities == ("generations", "stream", "interpolate")
    assert (vae.latent_dim, vae.leading_latents) == (20, tuple(range(16)))
    assert vae.capabilities == ("generations", "stream", "interpolate", "variations", "edits")
    for name, info in (("vae", vae), ("gan", gan)):
        async with shelf.lend(name) as engine:
            assert engine.info == info == shelf.describe(name).info
    await shelf.close()


def half_written(place: Path) -> None:
    (place / "model.safetensors").unlink()


def without_manifest(place: Path) -> None:
    (place / MANIFEST).unlink()


def damaged(place: Path) -> None:
    weights = place / "model.safetensors"
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


@pytest.mark.parametrize("harm", [half_written, without_manifest, damaged])
@in_loop
async def test_a_broken_version_leaves_the_old_one_and_is_loaded_when_it_is_whole(
    tmp_path: Path, harm, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    store = store_of(tmp_path, 2)
    shelf = shelf_of(store, "digits")
    first = await ask(shelf)
    place = Path(store.bundle("digits", 2).path)
    shutil.copytree(place, tmp_path / "whole")
    promote(store, 2)
    harm(place)
    looked = []
    outline = spots.outline
    monkeypatch.setattr(spots, "outline", lambda *args: looked.append(args) or outline(*args))
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await shelf.look()
            assert await ask(shelf) == first
            assert "version 2" in shelf.describe("digits").problem
            assert "version 2" in shelf.problem()
    assert len(looked) == 1, "it is not tried again as long as it is what it was"
    assert sum("version 2" in record.message for record in caplog.records) == 1
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "whole", place)
    await shelf.look()
    assert (await ask(shelf))[0] == 2
    assert shelf.problem() == ""
    await shelf.close()


@pytest.mark.parametrize(
    "spec",
    [
        ImageSpec(height=32, width=32, mode="L", classes=SPEC.classes),
        ImageSpec(height=16, width=16, mode="RGB", classes=SPEC.classes),
        ImageSpec(height=16, width=16, mode="L", classes=("a", "b", "c")),
    ],
)
@in_loop
async def test_a_version_of_another_shape_leaves_the_old_one(tmp_path: Path, spec: ImageSpec):
    store = store_of(tmp_path, 1)
    shelf = shelf_of(store, "digits")
    first = await ask(shelf)
    store.promote(bundle(tmp_path / "other", spec=spec), "digits", force=True)
    await shelf.look()
    assert await ask(shelf) == first
    assert "does not fit what is served" in shelf.problem()
    store.rollback("digits")
    await shelf.look()
    assert shelf.problem() == ""
    await shelf.close()


@in_loop
async def test_a_replica_that_comes_late_serves_what_the_others_stayed_with(tmp_path: Path):
    store = store_of(tmp_path, 1)
    deployed = checked(references(["digits"], str(store.root)))
    other = SPEC.model_copy(update={"classes": ("a", "b", "c")})
    store.promote(bundle(tmp_path / "other", spec=other), "digits", force=True)
    shelf = Shelf.of(deployed, load)
    await shelf.look()
    assert (await ask(shelf))[0] == 1
    assert "does not fit" in shelf.problem()
    await shelf.close()


@in_loop
async def test_a_damaged_move_leaves_the_old_one_and_is_told(tmp_path: Path):
    store = store_of(tmp_path, 2)
    shelf = shelf_of(store, "digits")
    folder = store.root / "digits" / "aliases" / "champion"
    (folder / "000009.json").write_text('{"version"')
    await shelf.look()
    assert (await ask(shelf))[0] == 1
    assert "log of an alias is damaged" in shelf.problem()
    await shelf.close()


@in_loop
async def test_a_trial_gets_its_share_and_who_names_a_version_gets_that(tmp_path: Path):
    store = store_of(tmp_path, 3)
    shelf = shelf_of(store, "digits")
    promote(store, 2, alias="canary", share=0.25)
    await shelf.look()

    async def drawn(name: str | None, count: int) -> Counter[int | None]:
        found: Counter[int | None] = Counter()
        for _ in range(count):
            async with shelf.lend(name) as engine:
                found[engine.info.version] += 1
        return found

    counts = await drawn(None, 2000)
    # Five standard deviations of a binomial: sqrt(2000 * 0.25 * 0.75) = 19.4.
    assert abs(counts[2] - 500) < 97
    assert set(counts) == {1, 2}
    for name, version in (
        ("digits@champion", 1),
        ("digits@canary", 2),
        ("digits:1", 1),
        ("digits:2", 2),
    ):
        assert await drawn(name, 50) == {version: 50}
    with pytest.raises(UnknownModelError, match="digits:3"):
        await drawn("digits:3", 1)
    described = shelf.describe("digits")
    assert described.trial is not None
    assert (described.trial.version, described.share) == (2, 0.25)
    assert shelf.describe("digits@canary").info.version == 2
    store.rollback("digits", "canary")
    await shelf.look()
    assert await drawn(None, 200) == {1: 200}
    await shelf.close()


@in_loop
async def test_a_trial_that_becomes_champion_is_not_loaded_again(tmp_path: Path):
    store = store_of(tmp_path, 2)
    shelf = shelf_of(store, "digits")
    promote(store, 2, alias="canary", share=0.5)
    await shelf.look()
    async with shelf.lend("digits@canary") as engine:
        tried = engine
    promote(store, 2)
    await shelf.look()
    for _ in range(20):
        async with shelf.lend() as engine:
            assert engine is tried
    assert shelf.describe("digits").trial is None
    await shelf.close()


@in_loop
async def test_a_broken_trial_leaves_the_champion_all_requests(tmp_path: Path):
    store = store_of(tmp_path, 2)
    shelf = shelf_of(store, "digits")
    promote(store, 2, alias="canary", share=1.0)
    damaged(Path(store.bundle("digits", 2).path))
    await shelf.look()
    assert (await ask(shelf))[0] == 1
    assert "version 2" in shelf.problem()
    await shelf.close()


@in_loop
async def test_following_begins_with_start_and_ends_with_close(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("distgen.serving.making.shelf.FOLLOW_EVERY_S", 0.01)
    store = store_of(tmp_path, 2)
    shelf = shelf_of(store, "digits")
    swapped = asyncio.Event()
    shelf.listeners.append(lambda _: swapped.set())
    shelf.start()
    promote(store, 2)
    await swapped.wait()
    assert (await ask(shelf))[0] == 2
    await shelf.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
