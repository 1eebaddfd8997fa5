"""Pictures drawn in a process of their own are those drawn here; nobody waits for a dead one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distgen.core.errors import DataError
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location
from distgen.models import VAEConfig
from distgen.serving.making.engine import Engine
from distgen.serving.making.loading import outline
from distgen.serving.making.references import Edition
from distgen.serving.making.remaking import Edit, Variation
from distgen.serving.making.sampler import Picture
from distgen.serving.making.workshop.apart import Workshop, WorkshopLostError
from distgen.serving.making.workshop.orders import RAW, Encoding, Order
from tests.unit.serving.making.bundles import bundle, in_loop, load

PICTURES = [Picture(seed, seed % 3) for seed in range(21)]
PNG = Encoding()


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    made = Workshop()
    yield made
    made.close()


def edition(place: Location) -> Edition:
    return Edition(place.url)


async def all_of(engine: Engine, pictures=PICTURES, encoding: Encoding = PNG) -> list[bytes]:
    try:
        return await engine.generate(pictures, encoding)
    finally:
        await engine.close()


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("encoding", [PNG, RAW, Encoding("jpeg", 80)], ids=lambda e: e.format)
def test_the_files_are_those_made_here(tmp_path: Path, threads: int, encoding: Encoding) -> None:
    wanted = outline(edition(bundle(tmp_path / "b")), "digits")
    apart = Workshop(encoder_threads=threads)
    try:
        files = asyncio.run(all_of(apart.load(wanted), encoding=encoding))
    finally:
        apart.close()
    assert files == asyncio.run(all_of(load(wanted), encoding=encoding))
    assert len(set(files)) == len(PICTURES)


def test_pictures_are_remade_as_here(tmp_path: Path, workshop: Workshop) -> None:
    spec = ImageSpec(height=16, width=16, mode="L")
    place = bundle(tmp_path / "vae", spec=spec, model=VAEConfig(latent_dim=4, width=8))
    pixels, hole = bytes(range(256)), bytes(128) + b"\1" * 128
    wanted = [Variation(1, pixels, 0.5), Edit(2, pixels, hole)]
    shown = outline(edition(place), "vae")
    assert asyncio.run(all_of(workshop.load(shown), wanted)) == asyncio.run(
        all_of(load(shown), wanted)
    )


@in_loop
async def test_the_time_of_a_batch_is_that_of_its_network_and_not_of_the_queue(tmp_path, workshop):
    engine = workshop.load(outline(edition(bundle(tmp_path / "b")), "digits"))
    orders = [Order(picture, Encoding("webp", 100)) for picture in PICTURES]
    started = time.monotonic()
    # Each waits for those before, and their encoding.
    drawn = await asyncio.gather(*(engine.hands.draw(orders) for _ in range(8)))
    assert all(one.seconds > 0 for one in drawn)
    assert sum(one.seconds for one in drawn) <= time.monotonic() - started
    engine.hands.close()


@in_loop
async def test_models_come_and_go_beside_one_another(tmp_path, workshop):
    first, second = (outline(edition(bundle(tmp_path / str(n), n)), "digits") for n in range(2))
    one, other = workshop.load(first), workshop.load(second)
    files = await all_of(one)
    assert files == await all_of(load(first))
    assert await all_of(other) == await all_of(load(second)) != files
    assert await all_of(workshop.load(first)) == files


def test_a_damaged_bundle_is_refused_as_here(tmp_path: Path, workshop: Workshop) -> None:
    place = bundle(tmp_path / "b")
    wanted = outline(edition(place), "digits")
    weights = tmp_path / "b" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError) as here:
        load(wanted)
    with pytest.raises(DataError) as there:
        workshop.load(wanted)
    assert str(there.value) == str(here.value)


@in_loop
async def test_what_fails_there_fails_its_own_request(tmp_path, workshop):
    engine = workshop.load(outline(edition(bundle(tmp_path / "b")), "digits"))
    with pytest.raises(ValueError, match="broadcast"):
        await engine.generate([Picture(0, 0, latents=(1.0,) * 3)], PNG)
    assert len(await all_of(engine)) == len(PICTURES)


@pytest.mark.parametrize("which", ["draws", "writes"])
@in_loop
async def test_a_killed_process_is_told_of_and_nobody_waits_for_it(tmp_path, which):
    lost = threading.Event()
    workshop = Workshop(encoder_threads=2, lost=lost.set)
    engine = workshop.load(outline(edition(bundle(tmp_path / "b")), "digits"))
    process = workshop.pids[which == "writes"]
    os.kill(process, signal.SIGSTOP)
    waiting = asyncio.create_task(engine.generate(PICTURES, PNG))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    os.kill(process, signal.SIGKILL)
    with pytest.raises(WorkshopLostError, match=f"that {which} has ended with code -9"):
        await waiting
    assert await asyncio.to_thread(lost.wait, 30)
    assert not any(map(psutil.pid_exists, workshop.pids))
    with pytest.raises(WorkshopLostError):
        await engine.generate(PICTURES, PNG)
    await engine.close()


@in_loop
async def test_what_draws_writes_too_unless_another_batch_waits(tmp_path):
    workshop = Workshop()
    wanted = outline(edition(bundle(tmp_path / "b")), "digits")
    engine = workshop.load(wanted)
    os.kill(workshop.pids[1], signal.SIGSTOP)
    few = PICTURES[:8]
    files = await asyncio.wait_for(engine.generate(few, PNG), 60)
    many = [asyncio.create_task(engine.generate(PICTURES * 3, PNG)) for _ in range(8)]
    await asyncio.wait(many, timeout=2.0)
    assert not all(task.done() for task in many), "nothing was handed on"
    os.kill(workshop.pids[1], signal.SIGCONT)
    made = await asyncio.gather(*many)
    assert all(each == made[0] and each[:8] == files for each in made)
    assert files == await all_of(load(wanted), few)
    await engine.close()
    workshop.close()


@in_loop
async def test_vectors_that_the_process_does_not_take_hold_up_nothing_else(tmp_path):
    workshop = Workshop()
    engine = workshop.load(outline(edition(bundle(tmp_path / "b")), "digits"))
    os.kill(workshop.pids[0], signal.SIGSTOP)
    long = [Picture(seed, 0, latents=(0.5,) * 30_000) for seed in range(8)]
    goes_on = threading.Timer(20.0, os.kill, (workshop.pids[0], signal.SIGCONT))
    goes_on.start()
    asked = [asyncio.create_task(engine.generate(pictures, PNG)) for pictures in (long, PICTURES)]
    await asyncio.sleep(0.2)
    assert goes_on.is_alive()  # the loop came back while nothing was taken
    goes_on.cancel()
    os.kill(workshop.pids[0], signal.SIGCONT)
    with pytest.raises(ValueError, match="broadcast"):
        await asked[0]
    await asyncio.wait(asked)
    await engine.close()
    workshop.close()


def test_closing_is_no_loss(tmp_path: Path) -> None:
    lost = threading.Event()
    workshop = Workshop(lost=lost.set)
    workshop.close()
    assert not any(map(psutil.pid_exists, workshop.pids))
    assert not lost.is_set()


OWNER = """
import time
from distgen.serving.making.workshop.apart import Workshop
print(*Workshop().pids, flush=True)
time.sleep(600)
"""


def test_the_processes_end_with_their_owner_however_that_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(processes) == 2
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        for process in processes:
            process.wait(30)
