"""The benchmark for GPUs runs on CPUs too, at a size that takes seconds."""

import importlib.util
import sys
from pathlib import Path

import pytest

from distgen.bench.flops import flops_per_image
from distgen.data import open_shard_set

SCRIPT = Path(__file__).parents[2] / "gpu" / "throughput.py"


@pytest.fixture(scope="module")
def throughput():
    spec = importlib.util.spec_from_file_location("throughput", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["throughput"] = module
    spec.loader.exec_module(module)
    return module


def test_every_family_is_measured_without_a_gpu(throughput):
    found = list(throughput.measure_all(throughput.TINY, steps=3, pictures=40, peak=1.0))
    names = ["gan-16", "vae-16", "rvae-16", "r3gan-16", "clips-16"]
    assert [figures.name for figures in found] == names
    for figures in found:
        assert figures.images_per_s > 0
        assert figures.mfu == pytest.approx(figures.tflops)
        assert 0 <= figures.data_wait <= 1
        assert figures.name in throughput.line_of(figures)


def test_the_flops_of_a_recurrent_network_are_those_of_its_matrices(throughput, tmp_path):
    case = throughput.TINY[2]
    job = throughput.make_job(case, tmp_path, steps=1, pictures=20)
    rows, features, width, latents = 16, 3 * 16, 8, job.model.latent_dim
    clock = job.model.clock_features
    forward = rows * 2 * 4 * width * (features + width) + 2 * width * 2 * latents  # encoder
    forward += 2 * width * latents + rows * 4 * width * (latents + clock + width)  # decoder's LSTM
    forward += rows * (width * (width + latents) + width * features)
    pictures = rows * 2 * 4 * width * features  # get no gradient
    # Two per product and sum; forward once, backward for inputs and for weights.
    expected = 2 * (3 * forward - pictures)
    spec = open_shard_set(job.data.shards, "train").spec
    assert flops_per_image(job, spec) == pytest.approx(expected, rel=0.01)
