"""What a picture's latents come from: its seed, given vectors, a temperature, a way."""

from __future__ import annotations

import asyncio
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distgen.models.latents import between, interpolate
from distgen.serving.making.sampler import Picture, Sampler, latents_for
from distgen.serving.making.workshop.orders import Encoding


def vector_of(seed: int, size: int = 16) -> tuple[float, ...]:
    return tuple(latents_for([Picture(seed)], size)[0].tolist())


def test_given_latents_take_the_place_of_the_seeds(make_network):
    network, spec = make_network("rgb-gan")
    sampler = Sampler(network, spec)
    by_seed, by_latents = sampler.sample([Picture(5), Picture(6, latents=vector_of(5))])
    np.testing.assert_array_equal(by_seed, by_latents)


def test_controls_do_not_depend_on_what_shares_the_batch(make_network):
    network, spec = make_network("rgb-gan")
    sampler = Sampler(network, spec)
    pictures = [
        Picture(1, temperature=0.5),
        Picture(1, temperature=2.0, truncation=0.7),
        Picture(1, latents=vector_of(3)),
        Picture(1),
    ]
    together = sampler.sample(pictures)
    for picture, image in zip(pictures, together, strict=True):
        np.testing.assert_array_equal(sampler.sample([picture])[0], image)
    assert len({image.tobytes() for image in together}) == 4


def test_temperature_scales_before_truncation_bounds():
    plain = latents_for([Picture(1)], 64)
    np.testing.assert_array_equal(latents_for([Picture(1, temperature=1.0)], 64), plain)
    np.testing.assert_array_equal(latents_for([Picture(1, temperature=0.5)], 64), plain / 2)
    assert not latents_for([Picture(1, temperature=0.0)], 64).any()
    cut = latents_for([Picture(1, truncation=0.5, temperature=2.0)], 64)
    assert np.abs(cut).max() <= 0.5 * (1 + 1e-6)


@given(seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)), steps=st.integers(2, 20))
def test_a_way_begins_and_ends_bit_for_bit_where_it_should(seeds, steps):
    first, second = latents_for([Picture(seed) for seed in seeds], 12)
    way = interpolate(first, second, steps)
    np.testing.assert_array_equal(way[0], first)
    np.testing.assert_array_equal(way[-1], second)
    lengths = np.linalg.norm(way, axis=1)
    ends = sorted((np.linalg.norm(first), np.linalg.norm(second)))
    assert lengths.min() >= 0.7 * ends[0]
    np.testing.assert_allclose(between(first, second, [0.5])[0], between(second, first, [0.5])[0])


def test_a_stream_gives_the_files_of_generate_each_with_its_place(make_engine):
    async def run() -> None:
        engine = make_engine()
        pictures = [Picture(seed, seed % 4) for seed in range(70)]
        whole = await engine.generate(pictures, Encoding())
        streamed = [each async for each in engine.stream(pictures, Encoding())]
        assert [index for index, _ in streamed] == list(range(70))
        assert [file for _, file in streamed] == whole
        stream = engine.stream(pictures, Encoding())
        await anext(stream)
        await stream.aclose()
        assert len(await engine.generate(pictures[:3], Encoding())) == 3
        assert engine.waiting == 0
        await engine.close()

    asyncio.run(run())


@pytest.mark.parametrize(("fmt", "name"), [("gif", "GIF"), ("webp", "WEBP")])
def test_a_film_shows_the_pictures_that_alone_are_files(make_engine, fmt, name):
    async def run() -> None:
        engine = make_engine()
        pictures = [Picture(seed, 2) for seed in range(5)]
        film = await engine.film(pictures, Encoding(fmt))
        await engine.close()
        frames = engine.hands.sampler.sample(pictures)
        with Image.open(io.BytesIO(film)) as image:
            assert (image.format, image.n_frames) == (name, 5)
            for number, frame in enumerate(frames):
                image.seek(number)
                shown = np.asarray(image.convert("RGB"))
                np.testing.assert_array_equal(shown, np.broadcast_to(frame, shown.shape))

    asyncio.run(run())
