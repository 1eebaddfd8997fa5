"""Many models in little memory: loaded once when wanted, least used first out, nobody held up."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from distgen.core.errors import UsageError
from distgen.models import GANConfig
from distgen.registry import ModelStore, load_bundle
from distgen.serving.making.account import Account, DeadlineError, opened
from distgen.serving.making.engine import Engine
from distgen.serving.making.loading import Outline, outline
from distgen.serving.making.memory import LOAD_AGAIN_S, UnloadableModelError
from distgen.serving.making.references import Edition
from distgen.serving.making.sampler import Picture
from distgen.serving.making.shelf import Shelf
from distgen.serving.making.workshop.orders import Encoding
from tests.unit.serving.making.bundles import alone, bundle, in_loop, load, shelf_of, store_of

PICTURE = Picture(seed=7, label=1)
NAMES = ("a", "b", "c")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    for name in NAMES:
        store = store_of(tmp_path, 1, name)
    return store


def size_of(store: ModelStore) -> int:
    return outline(Edition(store.bundle("a", 1).url), "a").memory_bytes


def loaded(shelf: Shelf) -> list[str]:
    return [name for name in NAMES if shelf.describe(name).loaded]


async def ask(shelf: Shelf, name: str) -> bytes:
    async with shelf.lend(name) as engine:
        assert engine.info.name == name
        return (await engine.generate([PICTURE], Encoding()))[0]


def test_the_size_of_a_model_is_that_of_its_parameters_and_buffers(store: ModelStore):
    state = load_bundle(store.bundle("a", 1)).model.state_dict()
    assert size_of(store) == sum(t.numel() * t.element_size() for t in state.values())


@in_loop
async def test_the_least_recently_used_leaves_and_comes_back_with_the_same_bytes(store):
    shelf = shelf_of(store, *NAMES, memory_bytes=int(2.5 * size_of(store)))
    assert loaded(shelf) == ["a", "b"]
    assert [info.name for info in shelf.models()] == ["a", "b", "c"]
    expected = {name: await alone(store.bundle(name, 1), PICTURE) for name in NAMES}
    await ask(shelf, "a")
    assert await ask(shelf, "c") == expected["c"]
    assert loaded(shelf) == ["a", "c"]
    assert await ask(shelf, "b") == expected["b"]
    assert loaded(shelf) == ["b", "c"]
    assert await ask(shelf, "a") == expected["a"]
    await shelf.close()


class Gate:
    """Loading as it is, counted, and begun when the gate is open."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, wanted: Outline) -> Engine:
        self.loads.append(wanted.info.name)
        self.open.wait()
        return load(wanted)


@in_loop
async def test_a_cold_model_is_loaded_once_and_others_answer_meanwhile(store):
    gate = Gate()
    shelf = shelf_of(store, *NAMES, memory_bytes=int(2.5 * size_of(store)), make=gate)
    gate.open.clear()
    gate.loads.clear()
    cold = [asyncio.create_task(ask(shelf, "c")) for _ in range(8)]
    while not gate.loads:
        await asyncio.sleep(0)
    await ask(shelf, "b")
    assert not any(task.done() for task in cold)
    cold[0].cancel()
    gate.open.set()
    results = await asyncio.gather(*cold, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert set(results[1:]) == {await alone(store.bundle("c", 1), PICTURE)}
    assert gate.loads == ["c"]
    await shelf.close()


@in_loop
async def test_a_busy_model_answers_what_it_has_before_it_leaves(store):
    shelf = shelf_of(store, "a", "b", memory_bytes=size_of(store))
    async with shelf.lend("a") as engine:
        waiting = asyncio.create_task(ask(shelf, "b"))
        while shelf.describe("a").loaded:
            await asyncio.sleep(0)
        file = (await engine.generate([PICTURE], Encoding()))[0]
        assert not waiting.done(), "both would be more than the limit"
    assert file == await alone(store.bundle("a", 1), PICTURE)
    assert await waiting == await alone(store.bundle("b", 1), PICTURE)
    await shelf.close()


@in_loop
async def test_interleaved_requests_for_more_than_fits_are_all_answered(store):
    shelf = shelf_of(store, *NAMES, memory_bytes=size_of(store))
    expected = {name: await alone(store.bundle(name, 1), PICTURE) for name in NAMES}

    async def caller(first: int) -> None:
        for turn in range(9):
            name = NAMES[(first + turn) % 3]
            assert await ask(shelf, name) == expected[name]
            assert shelf._memory.used_bytes <= size_of(store)

    await asyncio.gather(*(caller(number) for number in range(6)))
    await shelf.close()


@in_loop
async def test_a_swap_of_a_cold_model_is_checked_and_takes_no_room_of_others(store, tmp_path):
    shelf = shelf_of(store, *NAMES, memory_bytes=int(2.5 * size_of(store)))
    store.promote(bundle(tmp_path / "c2", 9, name="c"), force=True)
    await shelf.look()
    assert shelf.describe("c").info.version == 2
    while loaded(shelf) != ["a", "b"]:
        await asyncio.sleep(0.001)
    assert await ask(shelf, "c") == await alone(store.bundle("c", 2), PICTURE)
    await shelf.close()


@in_loop
async def test_a_swap_does_not_wait_for_whoever_waits_for_room(store, tmp_path):
    shelf = shelf_of(store, *NAMES, memory_bytes=size_of(store))
    async with shelf.lend("a"):
        waiting = asyncio.create_task(ask(shelf, "b"))
        while shelf.describe("a").loaded:
            await asyncio.sleep(0)
        store.promote(bundle(tmp_path / "c2", 9, name="c"), force=True)
        await shelf.look()
        assert shelf.describe("c").info.version == 2
        assert not waiting.done()
    await waiting
    await shelf.close()


@in_loop
async def test_who_waits_for_room_waits_until_its_deadline(store):
    shelf = shelf_of(store, "a", "b", memory_bytes=size_of(store))
    async with shelf.lend("a") as engine:
        with opened(Account(deadline=time.monotonic() + 0.05)), pytest.raises(DeadlineError):
            await ask(shelf, "b")
        assert len(await engine.generate([PICTURE], Encoding())) == 1
    assert await ask(shelf, "b") == await alone(store.bundle("b", 1), PICTURE)
    await shelf.close()


@in_loop
async def test_a_version_that_alone_is_larger_than_the_limit_is_no_swap(store, tmp_path):
    shelf = shelf_of(store, "a", memory_bytes=size_of(store))
    wide = GANConfig(latent_dim=4, width=16, conditional=True)
    store.promote(bundle(tmp_path / "wide", name="a", model=wide), force=True)
    await shelf.look()
    assert shelf.describe("a").info.version == 1
    assert "does not fit into" in shelf.problem()
    assert await ask(shelf, "a") == await alone(store.bundle("a", 1), PICTURE)
    await shelf.close()


@in_loop
async def test_a_damaged_bundle_pushes_nobody_out_twice_and_is_told(store, monkeypatch):
    shelf = shelf_of(store, "a", "b", memory_bytes=size_of(store))
    weights = Path(store.bundle("b", 1).path) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UnloadableModelError):
        await ask(shelf, "b")
    assert not shelf.describe("b").answers
    assert "b: " in shelf.problem()
    assert shelf.describe("b").problem in shelf.problem()
    await ask(shelf, "a")
    with pytest.raises(UnloadableModelError) as again:
        await ask(shelf, "b")
    assert 0 < again.value.retry_after_s <= LOAD_AGAIN_S
    assert shelf.describe("a").loaded
    weights.write_bytes(whole)
    assert not shelf.describe("b").answers
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + LOAD_AGAIN_S)
    assert shelf.describe("b").answers, "as far as is known"
    assert await ask(shelf, "b") == await alone(store.bundle("b", 1), PICTURE)
    assert shelf.problem() == ""
    await shelf.close()


@in_loop
async def test_a_model_whose_bundle_has_gone_says_so_and_others_go_on(store):
    shelf = shelf_of(store, *NAMES, memory_bytes=int(2.5 * size_of(store)))
    for file in Path(store.bundle("c", 1).path).iterdir():
        file.unlink()
    for _ in range(2):
        with pytest.raises(UnloadableModelError, match="'c' cannot be loaded"):
            await ask(shelf, "c")
    await ask(shelf, "a")
    await shelf.close()


@in_loop
async def test_a_bundle_that_was_replaced_is_not_served_under_the_old_digest(tmp_path):
    store = store_of(tmp_path, 1, "a")
    place = bundle(tmp_path / "run", 1, name="b")
    shelf = shelf_of(store, "a", place.path, memory_bytes=size_of(store))
    bundle(tmp_path / "run", 2, name="b")
    with pytest.raises(UnloadableModelError, match="written anew"):
        await ask(shelf, "b")
    await shelf.close()


def test_a_model_that_never_fits_is_refused(store):
    with pytest.raises(UsageError, match="does not fit into"):
        shelf_of(store, "a", memory_bytes=size_of(store) - 1)
