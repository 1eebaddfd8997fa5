"""What every family promises to the trainer, the evaluator and the server."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.models import FAMILIES, ModelConfig, Sampler, build_networks, sketch_networks

CLASSES = ("coat", "bag", "boot")
SMALL: dict[str, dict[str, Any]] = {
    "gan": {"family": "gan", "latent_dim": 6, "width": 8},
    "gan-conditional": {"family": "gan", "latent_dim": 6, "width": 8, "conditional": True},
    "gan-residual": {
        "family": "gan",
        "network": "residual",
        "latent_dim": 6,
        "width": 8,
        "conditional": True,
        "minibatch_deviation": True,
    },
    "vae": {"family": "vae", "latent_dim": 5, "width": 8},
    "vae-gaussian": {"family": "vae", "latent_dim": 5, "width": 8, "likelihood": "gaussian"},
    "vae-logistic": {"family": "vae", "latent_dim": 5, "width": 8, "likelihood": "logistic"},
    "vae-dense": {"family": "vae", "latent_dim": 5, "width": 8, "hidden": 8},
    "hvae": {"family": "hvae", "latent_dim": 5, "width": 8, "hidden": 8},
    "hvae-mixture": {
        "family": "hvae",
        "latent_dim": 5,
        "width": 8,
        "hidden": 8,
        "map_levels": 1,
        "blocks": 2,
        "likelihood": "logistic-mixture",
    },
    "rvae": {"family": "rvae", "latent_dim": 5, "width": 8},
    "rvae-gaussian": {"family": "rvae", "latent_dim": 5, "width": 8, "likelihood": "gaussian"},
    "rvae-sequence": {
        "family": "rvae", "latents": "sequence", "latent_dim": 2, "width": 8, "channels": 8,
    },
    "clip-rvae": {"family": "clip-rvae", "latent_dim": 2, "width": 8, "state": 8, "reach": 2},
}  # fmt: skip
every_model = pytest.mark.parametrize("raw", SMALL.values(), ids=SMALL)
FRAMES = 3


def spec_for(raw: dict[str, Any], height: int, width: int, mode: str) -> ImageSpec:
    frames = FRAMES if FAMILIES[raw["family"]].clips else None
    return ImageSpec(height=height, width=width, mode=mode, classes=CLASSES, frames=frames)


def name_of(raw: dict[str, Any]) -> str:
    return next(name for name, each in SMALL.items() if each is raw)


def config_of(raw: dict[str, Any]):
    return TypeAdapter(ModelConfig).validate_python(raw)


def networks_of(raw: dict[str, Any], spec: ImageSpec) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return build_networks(config_of(raw), spec)


def served_of(raw: dict[str, Any], size: int = 16, mode: str = "L") -> Any:
    spec = spec_for(raw, size, size, mode)
    return networks_of(raw, spec)[FAMILIES[raw["family"]].served].eval()


def inputs_for(model: Any, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    labels = torch.arange(count) % len(CLASSES) if model.num_classes else None
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, model.latent_dim, generator=generator), labels


def test_the_table_and_the_union_name_the_same_families():
    assert {config_of(raw).family for raw in SMALL.values()} == set(FAMILIES)
    for name, family in FAMILIES.items():
        assert family.config().family == name


@every_model
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_samples_have_the_size_and_range_of_the_pictures(raw, size: int, mode: str):
    model = served_of(raw, size, mode)
    latents, labels = inputs_for(model, 3)
    with torch.no_grad():
        images = model.sample(20.0 * latents, labels)
    time = (FRAMES,) if FAMILIES[raw["family"]].clips else ()
    assert images.shape == (3, *time, 1 if mode == "L" else 3, size, size)
    assert images.dtype == torch.float32
    assert images.min() >= -1.0
    assert images.max() <= 1.0


@every_model
def test_pictures_need_not_be_square(raw):
    spec = spec_for(raw, 16, 28, "RGB")
    model: Any = networks_of(raw, spec)[FAMILIES[raw["family"]].served]
    latents, labels = inputs_for(model, 2)
    assert model.sample(latents, labels).shape[-3:] == (3, 16, 28)


@every_model
@pytest.mark.parametrize("make", [build_networks, sketch_networks])
def test_models_of_pictures_refuse_clips_and_models_of_clips_pictures(raw, make):
    clips = FAMILIES[raw["family"]].clips
    spec = ImageSpec(height=16, width=16, mode="L", classes=CLASSES, frames=None if clips else 4)
    said = "makes clips, not pictures" if clips else "single pictures, not clips of 4 frames"
    with pytest.raises(UsageError, match=said) as error:
        make(config_of(raw), spec)
    assert repr(raw["family"]) in str(error.value)
    assert f"{'with' if clips else 'without'} --frames" in str(error.value)


@every_model
def test_a_served_network_is_a_sampler_and_says_its_sizes(raw):
    model = served_of(raw)
    assert isinstance(model, Sampler)
    # A hierarchy has maps of latents on top of the vector; rows come in bands, as many as the
    # coarsest feature map of 16 pixels has.
    groups = getattr(model, "latent_groups", (raw["latent_dim"],))
    assert groups[0] == raw["latent_dim"]
    assert model.latent_dim == sum(groups)
    steps = {"rvae-sequence": 4, "clip-rvae": FRAMES}.get(name_of(raw), 1)
    if raw["family"] != "hvae":
        assert groups == (raw["latent_dim"],) * steps
    assert model.num_classes == (len(CLASSES) if raw.get("conditional") else 0)


@every_model
@torch.no_grad()
def test_sampling_is_a_function_of_latents_and_labels(raw):
    model = served_of(raw)
    latents, labels = inputs_for(model, 4)
    first = model.sample(latents, labels)
    torch.manual_seed(99)
    assert torch.equal(first, model.sample(latents, labels))
    assert not torch.allclose(first, model.sample(latents.flip(0), labels), atol=1e-5)


@every_model
@torch.no_grad()
def test_a_picture_does_not_depend_on_the_rest_of_its_batch(raw):
    model = served_of(raw).train()
    latents, labels = inputs_for(model, 8)
    together = model.sample(latents, labels)
    alone = model.sample(latents[5:6], None if labels is None else labels[5:6])
    torch.testing.assert_close(together[5:6], alone, rtol=1e-4, atol=1e-5)


@every_model
def test_no_network_keeps_batch_statistics(raw):
    spec = spec_for(raw, 16, 16, "L")
    for network in networks_of(raw, spec).values():
        assert not any(
            isinstance(part, nn.modules.batchnorm._NormBase) for part in network.modules()
        )
        assert list(network.buffers()) == []


@every_model
def test_the_same_seed_builds_the_same_weights(raw):
    spec = spec_for(raw, 16, 16, "L")
    first, second = networks_of(raw, spec), networks_of(raw, spec)
    for name, network in first.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, second[name].state_dict()[key])


@pytest.mark.parametrize("name", ["gan", "vae", "hvae", "rvae-sequence", "clip-rvae"])
def test_a_size_that_cannot_be_doubled_to_is_refused_before_training(name: str):
    with pytest.raises(UsageError, match="30x30") as caught:
        networks_of(SMALL[name], spec_for(SMALL[name], 30, 30, "L"))
    assert "--size 28" in str(caught.value) or "--size 32" in str(caught.value)


def test_a_conditional_model_of_pictures_without_classes_is_refused():
    spec = ImageSpec(height=16, width=16, mode="L")
    with pytest.raises(UsageError, match="classes") as caught:
        networks_of(SMALL["gan-conditional"], spec)
    assert caught.value.where == "model.conditional"
    assert "conditional=false" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        pytest.param(family.config, key, id=f"{name}.{key}")
        for name, family in FAMILIES.items()
        for key, field in family.config.model_fields.items()
        if field.annotation is int
    ],
)
@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_no_size_of_a_network_is_nothing_or_without_end(config, key, value):
    with pytest.raises(ValueError, match=key):
        config(**{key: value})
