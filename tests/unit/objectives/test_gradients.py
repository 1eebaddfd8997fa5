"""The promise that makes a run independent of its ranks: 1, 2 and 3 have the same gradients.

This file is also the program of one rank: `python test_gradients.py RANK RANKS FOLDER`.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from distgen.core.spec import ImageSpec
from distgen.core.world import World
from distgen.models import (
    FAMILIES,
    ClipRVAEConfig,
    GANConfig,
    HVAEConfig,
    ModelConfig,
    RVAEConfig,
    VAEConfig,
    build_networks,
)
from distgen.objectives import KINDS, Noise, Objective, TrainBatch, build_objective
from distgen.objectives.augmentation import AugmentationConfig
from distgen.training.collective import Collective

SPEC = ImageSpec(height=16, width=16, mode="L", classes=("a", "b", "c"))
CLIPS = ImageSpec(height=8, width=8, mode="L", frames=4)
GLOBAL_BATCH = 12
"""Divides into two parts on two and on three ranks."""
IMAGES_SEEN = 640


@dataclass(frozen=True)
class Case:
    """A model and an objective that fit together."""

    model: ModelConfig
    objective: object

    @property
    def spec(self) -> ImageSpec:
        return CLIPS if FAMILIES[self.model.family].clips else SPEC

    @property
    def global_batch(self) -> int:
        """Rows: each part of each rank holds whole groups where these are compared."""
        compared = getattr(self.model, "minibatch_deviation", False)
        return 4 * GLOBAL_BATCH if compared else GLOBAL_BATCH

    def build(self) -> tuple[dict[str, nn.Module], Objective]:
        torch.manual_seed(0)
        networks = build_networks(self.model, self.spec)
        served: Any = networks[FAMILIES[self.model.family].served]
        groups = getattr(served, "latent_groups", ())
        objective = build_objective(
            self.objective,  # type: ignore[arg-type]
            self.model.family,
            served.latent_dim,
            groups,
        )
        return networks, objective


def _cases() -> dict[str, Case]:
    gan = GANConfig(latent_dim=6, width=8)
    conditional = GANConfig(latent_dim=6, width=8, conditional=True)
    cases = {
        f"{'conditional-' if model.conditional else ''}{kind}": Case(model, KINDS[kind]())
        for model in (gan, conditional)
        for kind in ("relativistic", "non-saturating", "hinge", "wgan-gp")
    }
    plain = KINDS["relativistic"](r1=0.0, r2=0.0)
    both = KINDS["hinge"](r1=0.5, r2=2.0)
    cases |= {"relativistic-bare": Case(conditional, plain), "hinge-r1-r2": Case(gan, both)}
    residual = GANConfig(network="residual", latent_dim=6, width=8, group_size=4, conditional=True)
    compared = {"minibatch_deviation": True}
    # Settled in the middle, so that some pictures are changed and some are not.
    augmented = {"augmentation": AugmentationConfig(flip=True, probability=0.5)}
    moving = {"start": 2.0, "end": 0.1, "images": 2 * IMAGES_SEEN}
    for kind in ("relativistic", "non-saturating", "hinge", "wgan-gp"):
        cases[f"compared-{kind}"] = Case(gan.model_copy(update=compared), KINDS[kind]())
        cases[f"augmented-{kind}"] = Case(conditional, KINDS[kind](**augmented))
    scheduled = KINDS["relativistic"](r1=moving, r2=moving)
    everything = KINDS["relativistic"](r1=moving, **augmented)
    cases |= {
        "scheduled": Case(gan, scheduled),
        "residual": Case(residual, KINDS["relativistic"]()),
        "residual-everything": Case(residual.model_copy(update=compared), everything),
    }
    shaped = KINDS["elbo"](beta=0.7, kl_warmup_images=1000, free_bits=0.002)
    cases["vae-dense"] = Case(VAEConfig(latent_dim=4, width=8, hidden=8), KINDS["elbo"]())
    for family in (VAEConfig, HVAEConfig, RVAEConfig):
        for likelihood in ("bernoulli", "gaussian", "logistic", "logistic-mixture"):
            model = family(latent_dim=4, width=8, likelihood=likelihood)
            cases[f"{model.family}-{likelihood}"] = Case(model, KINDS["elbo"]())
        cases[f"{model.family}-shaped"] = Case(family(latent_dim=4, width=8), shaped)
    bands = RVAEConfig(latents="sequence", latent_dim=3, width=8, channels=8)
    cases |= {"rvae-sequence": Case(bands, KINDS["elbo"]()), "bands-shaped": Case(bands, shaped)}
    clips = ClipRVAEConfig(latent_dim=3, width=8, state=8, copies=2, reach=2)
    taught = KINDS["clip-elbo"](beta=0.7, free_bits=0.002, teacher_forcing_images=1280)
    cases |= {
        "clip-rvae": Case(clips, KINDS["clip-elbo"]()),
        "clip-rvae-taught": Case(clips, taught),
    }
    return cases


CASES = _cases()


def batch_for(name: str, world: World, images_seen: int = IMAGES_SEEN) -> TrainBatch:
    """One rank's rows of a case's global batch at this point of the clock."""
    generator = torch.Generator().manual_seed(images_seen)
    rows = CASES[name].global_batch
    images = torch.rand(rows, *CASES[name].spec.shape, generator=generator) * 2 - 1
    images = images.movedim(-1, -3)
    labels = torch.randint(-1, 3, (rows,), generator=generator)
    mine = slice(world.rank, None, world.size)
    noise = Noise(3, images_seen, world, rows, torch.device("cpu"))
    return TrainBatch(images[mine], labels[mine], noise, images_seen)


def train_only(networks: dict[str, nn.Module], names: tuple[str, ...]) -> None:
    """What the trainer does before a phase."""
    for name, network in networks.items():
        network.requires_grad_(name in names)


STEPS = 2
"""A second step shows what the first may hide: an unsynchronised reducer raises only then."""

every_case = pytest.mark.parametrize("name", CASES)

Gradients = dict[str, Tensor]


def gradients_of(name: str, ranks: Collective, parts: int = 1) -> Gradients:
    """Every parameter's gradient in the phase that trains it, as the trainer would make it."""
    networks, objective = CASES[name].build()
    networks = {key: n.to(memory_format=torch.channels_last) for key, n in networks.items()}
    replicas = ranks.replicate(networks)
    gradients: Gradients = {}
    for step in range(STEPS):
        batch = batch_for(name, ranks.world, IMAGES_SEEN + step)
        for phase in objective.phases:
            train_only(networks, phase.networks)
            for key in phase.networks:
                networks[key].zero_grad(set_to_none=True)
            chosen = {
                key: replicas[key] if key in phase.networks else networks[key] for key in networks
            }
            for number, part in enumerate(batch.split(parts), start=1):
                trained = [chosen[key] for key in phase.networks]
                with ranks.apart(trained, unsynchronised=number < parts):
                    loss, _ = objective.loss(phase, chosen, part)
                    (loss / parts).backward()
            for key in phase.networks:
                for parameter_name, parameter in networks[key].named_parameters():
                    gradients[f"{step} {phase.name} {key}.{parameter_name}"] = parameter.grad
    return gradients


def assert_equal_but_for_rounding(found: Tensor, expected: Tensor, key: str) -> None:
    """Small gradients are sums of large ones: what they are off by goes with the largest."""
    atol = 2e-5 * max(1.0, 0.5 * expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=atol, msg=key)


def run_rank(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size
    )
    ranks = Collective(World(rank, size))
    found = {
        f"{name} in {parts}": gradients_of(name, ranks, parts) for name in CASES for parts in (1, 2)
    }
    torch.save(found, Path(folder) / f"rank-{rank}.pt")
    dist.destroy_process_group()


def by_rank(size: int, folder: Path) -> list[dict[str, Gradients]]:
    """What each of several processes ends up with after DDP's all-reduce."""
    ranks = [
        # Users should see no warnings either.
        subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(rank), str(size), str(folder)]
        )
        for rank in range(size)
    ]
    assert [process.wait() for process in ranks] == [0] * size
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(size)]


@pytest.mark.parametrize("size", [2, 3])
def test_many_ranks_have_the_gradients_of_one(size: int, tmp_path: Path):
    # All cases in one test: starting the processes costs more than any of them.
    found = by_rank(size, tmp_path)
    wrong = []
    for name in CASES:
        alone = gradients_of(name, Collective(World()))
        for parts in (1, 2):
            for rank, gradients in enumerate(each[f"{name} in {parts}"] for each in found):
                assert gradients.keys() == alone.keys(), name
                for key, expected in alone.items():
                    try:
                        assert_equal_but_for_rounding(gradients[key], expected, key)
                    except AssertionError:
                        wrong.append(f"{name} in {parts} on rank {rank}: {key}")
    assert wrong == []


@every_case
def test_parts_of_a_batch_have_the_gradients_of_the_whole(name: str):
    whole = gradients_of(name, Collective(World()))
    for key, found in gradients_of(name, Collective(World()), parts=3).items():
        assert_equal_but_for_rounding(found, whole[key], key)


@every_case
def test_every_parameter_gets_a_gradient_in_its_phase(name: str):
    networks, objective = CASES[name].build()
    trained = [key for phase in objective.phases for key in phase.networks]
    assert sorted(trained) == sorted(networks)
    for key, gradient in gradients_of(name, Collective(World())).items():
        assert gradient is not None, key
        assert gradient.abs().max() > 0, key
        assert gradient.isfinite().all(), key


@every_case
def test_frozen_networks_get_no_gradient(name: str):
    networks, objective = CASES[name].build()
    for phase in objective.phases:
        train_only(networks, phase.networks)
        for network in networks.values():
            network.zero_grad(set_to_none=True)
        loss, _ = objective.loss(phase, networks, batch_for(name, World()))
        loss.backward()
        for key, network in networks.items():
            if key not in phase.networks:
                assert all(p.grad is None for p in network.parameters()), (phase.name, key)


@every_case
def test_logs_are_plain_scalars_and_hold_the_loss(name: str):
    networks, objective = CASES[name].build()
    for phase in objective.phases:
        train_only(networks, phase.networks)
        loss, logs = objective.loss(phase, networks, batch_for(name, World()))
        assert loss.shape == ()
        assert logs["loss"] == loss
        for value in logs.values():
            assert value.shape == ()
            assert not value.requires_grad


@every_case
def test_a_loss_is_a_function_of_weights_and_batch(name: str):
    networks, objective = CASES[name].build()
    for phase in objective.phases:
        train_only(networks, phase.networks)
        first, _ = objective.loss(phase, networks, batch_for(name, World()))
        torch.manual_seed(123)
        again, _ = objective.loss(phase, networks, batch_for(name, World()))
        later, _ = objective.loss(phase, networks, batch_for(name, World(), IMAGES_SEEN + 8))
        assert first.item() == again.item()
        assert first.item() != later.item()


@every_case
def test_mixed_precision_gives_nearly_the_same_loss(name: str):
    networks, objective = CASES[name].build()
    for phase in objective.phases:
        train_only(networks, phase.networks)
        exact, _ = objective.loss(phase, networks, batch_for(name, World()))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, _ = objective.loss(phase, networks, batch_for(name, World()))
        loss.backward()
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
