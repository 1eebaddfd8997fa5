from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distgen.core.world import World
from distgen.objectives import (
    HingeConfig,
    Noise,
    NonSaturatingConfig,
    RelativisticConfig,
    TrainBatch,
    WassersteinConfig,
)
from distgen.objectives.adversarial import (
    DISCRIMINATOR,
    GENERATOR,
    Adversarial,
    discriminator_losses,
    generator_losses,
    squared_gradient_norms,
)

REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        ("relativistic", lambda r, f: softplus(f - r), lambda r, f: softplus(r - f)),
        ("non-saturating", lambda r, f: softplus(f) + softplus(-r), lambda r, f: softplus(-f)),
        ("hinge", lambda r, f: max(0, 1 + f) + max(0, 1 - r), lambda r, f: -f),
        ("wgan-gp", lambda r, f: f - r, lambda r, f: -f),
    ],
)
def test_losses_are_the_formulas_of_the_papers(kind: str, discriminator, generator):
    pairs = list(zip(REAL.tolist(), FAKE.tolist(), strict=True))
    expected = torch.tensor([discriminator(r, f) for r, f in pairs])
    torch.testing.assert_close(discriminator_losses(kind, REAL, FAKE), expected)
    compared = REAL if kind == "relativistic" else None
    expected = torch.tensor([generator(r, f) for r, f in pairs])
    torch.testing.assert_close(generator_losses(kind, FAKE, compared), expected)


class Quadratic(nn.Module):
    """D(x) = w * |x|^2, so that the gradient is 2 w x and its squared norm 4 w^2 |x|^2."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, images: Tensor, labels: Tensor | None = None, sets: int = 1) -> Tensor:
        return self.weight * images.square().flatten(1).sum(1)


class Painter(nn.Module):
    """G(z): each picture is one shade, its first latent number."""

    def __init__(self) -> None:
        super().__init__()
        self.shade = nn.Parameter(torch.tensor(0.1))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return (self.shade * latents[:, :1]).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def setting(config) -> tuple[Adversarial, dict[str, nn.Module], TrainBatch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 1, 2, 2, generator=generator) * 2 - 1
    noise = Noise(0, 0, World(), 4, torch.device("cpu"))
    networks = {"generator": Painter(), "discriminator": Quadratic(0.5)}
    return Adversarial(config, latent_dim=3), networks, TrainBatch(images, None, noise, 0)


def fakes_of(phase_name: str, networks: dict[str, nn.Module], batch: TrainBatch) -> Tensor:
    return networks["generator"](batch.noise.normal(f"latents/{phase_name}", 3)).detach()


def squared(images: Tensor) -> Tensor:
    return images.square().flatten(1).sum(1)


@pytest.mark.parametrize("config", [RelativisticConfig(r1=0.7, r2=0.2), HingeConfig(r1=0.4)])
def test_penalties_are_the_squared_norms_in_closed_form(config):
    objective, networks, batch = setting(config)
    fakes = fakes_of("discriminator", networks, batch)
    loss, logs = objective.loss(DISCRIMINATOR, networks, batch)
    weight = 0.5
    r1 = 4 * weight**2 * squared(batch.images_nchw).mean()
    r2 = 4 * weight**2 * squared(fakes).mean()
    torch.testing.assert_close(logs["r1"], r1)
    torch.testing.assert_close(logs["r2"], r2)
    scores = weight * squared(batch.images_nchw), weight * squared(fakes)
    adversarial = discriminator_losses(config.kind, *scores).mean()
    torch.testing.assert_close(
        loss.detach(), adversarial + 0.5 * config.r1 * r1 + 0.5 * config.r2 * r2
    )


def test_the_gradient_through_a_penalty_is_that_of_the_closed_form():
    objective, networks, batch = setting(RelativisticConfig(r1=0.7, r2=0.2))
    weight = networks["discriminator"].weight
    loss, _ = objective.loss(DISCRIMINATOR, networks, batch)
    (found,) = torch.autograd.grad(loss, weight)
    real, fake = squared(batch.images_nchw), squared(fakes_of("discriminator", networks, batch))
    w = torch.tensor(0.5, requires_grad=True)
    adversarial = nn.functional.softplus(w * (fake - real)).mean()
    penalties = 0.5 * 4 * w**2 * (0.7 * real.mean() + 0.2 * fake.mean())
    (expected,) = torch.autograd.grad(adversarial + penalties, w)
    torch.testing.assert_close(found, expected)


def test_squared_gradient_norms_agree_with_finite_differences():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    images = torch.randn(3, 1, 2, 2, dtype=torch.double, requires_grad=True)
    found = squared_gradient_norms(network(images).squeeze(1), images)
    step, expected = 1e-5, torch.zeros(3, dtype=torch.double)
    for pixel in range(4):
        shift = torch.zeros(4, dtype=torch.double)
        shift[pixel] = step
        shift = shift.view(1, 1, 2, 2)
        with torch.no_grad():
            slope = (network(images + shift) - network(images - shift)).squeeze(1) / (2 * step)
        expected += slope.square()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_without_penalties_no_second_derivative_is_built():
    objective, networks, batch = setting(NonSaturatingConfig(r1=0.0, r2=0.0))
    _, logs = objective.loss(DISCRIMINATOR, networks, batch)
    assert set(logs) == {"loss", "adversarial", "real_score", "fake_score"}


def test_wasserstein_penalises_the_norm_between_real_and_generated():
    config = WassersteinConfig(gradient_penalty=10.0, drift=0.01)
    objective, networks, batch = setting(config)
    fakes = fakes_of("discriminator", networks, batch)
    loss, logs = objective.loss(DISCRIMINATOR, networks, batch)
    shares = batch.noise.uniform("interpolation", 1, 1, 1)
    between = batch.images_nchw + shares * (fakes - batch.images_nchw)
    penalty = (squared(between).sqrt() - 1.0).square().mean()
    real_n, fake_n = 0.5 * squared(batch.images_nchw), 0.5 * squared(fakes)
    distance = (real_n - fake_n).mean()
    torch.testing.assert_close(logs["penalty"], penalty, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logs["distance"], distance)
    expected = -distance + 10.0 * penalty + 0.01 * real_n.square().mean()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=1e-6)


def test_the_phases_draw_latents_of_their_own():
    objective, networks, batch = setting(RelativisticConfig())
    first, second = (fakes_of(phase.name, networks, batch) for phase in objective.phases)
    assert not torch.equal(first, second)


def test_the_discriminator_comes_first():
    assert setting(HingeConfig())[0].phases == (DISCRIMINATOR, GENERATOR)


def test_penalties_stay_in_float32_under_autocast():
    dtypes = []

    class Seen(Quadratic):
        def forward(self, images: Tensor, labels: Tensor | None = None, sets: int = 1) -> Tensor:
            dtypes.append((images.flatten(1) @ torch.ones(4, 1)).dtype)
            return super().forward(images, labels)

    objective, networks, batch = setting(RelativisticConfig())
    networks["discriminator"] = Seen(0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = objective.loss(DISCRIMINATOR, networks, batch)
        assert dtypes == [torch.float32]
        assert loss.dtype == torch.float32
        objective.loss(GENERATOR, networks, batch)
    assert torch.bfloat16 in dtypes
