from __future__ import annotations

import pytest
import torch

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.models import GANConfig, build_networks
from distgen.models.layers import pyramid_for
from distgen.models.residual import (
    Smooth,
    downsample,
    minibatch_deviation,
    shape_for,
    upsample,
)

KERNEL = torch.tensor([1.0, 3.0, 3.0, 1.0])


def shape(side: int, **changes):
    settings = {"width": 64, "widths": None, "blocks": 1, "expansion": 2, "group_size": 16}
    pyramid = pyramid_for(ImageSpec(height=side, width=side, mode="L"))
    return shape_for(pyramid, **{**settings, "patch": 1, **changes})


@pytest.mark.parametrize(
    ("side", "widths"),
    [
        (16, (64, 64, 64)),
        (28, (64, 64, 64)),
        (32, (64, 64, 64, 64)),
        (64, (64, 64, 64, 64, 32)),
        (256, (64, 64, 64, 64, 32, 16, 8)),
    ],
)
def test_widths_are_kept_up_to_32_pixels_and_halve_beyond(side: int, widths):
    assert shape(side).widths == widths
    assert shape(side, patch=2).widths == widths[:-1]


def test_widths_of_the_wrong_number_or_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="3 resolutions here, not 2") as caught:
        shape(28, widths=(64, 32))
    assert "give 3 numbers" in str(caught.value.remedy)
    with pytest.raises(UsageError, match="40 channels in the middle"):
        shape(28, widths=(64, 32, 20))


def test_keys_that_only_a_residual_network_reads_are_refused_elsewhere():
    with pytest.raises(ValueError, match="expansion, patch belong to network: residual"):
        GANConfig(expansion=3, patch=2)


def inner(images: torch.Tensor) -> torch.Tensor:
    return images[:, :, 2:-2, 2:-2]


def test_resolutions_change_by_the_binomial_filter():
    torch.manual_seed(0)
    images = torch.randn(2, 1, 16, 16, dtype=torch.double)
    kernel = torch.outer(KERNEL, KERNEL).double()[None, None]
    down = torch.nn.functional.conv2d(images, kernel / 64, stride=2, padding=1)
    torch.testing.assert_close(downsample(images), down)
    up = torch.nn.functional.conv_transpose2d(images, kernel / 16, stride=2, padding=1)
    torch.testing.assert_close(upsample(images), up)


def test_resampling_keeps_what_is_flat_away_from_the_edges():
    flat = torch.full((1, 3, 8, 8), 0.7)
    torch.testing.assert_close(inner(upsample(flat)), torch.full((1, 3, 12, 12), 0.7))
    torch.testing.assert_close(downsample(flat)[..., 1:-1, 1:-1], torch.full((1, 3, 2, 2), 0.7))


def test_what_is_flat_is_painted_without_a_pattern():
    torch.manual_seed(0)
    images = Smooth(6, 3)(torch.randn(2, 6, 1, 1).expand(2, 6, 8, 8))
    assert images.shape == (2, 3, 16, 16)
    inside = images[:, :, 4:-4, 4:-4]
    assert images.std() > 0.01
    assert torch.allclose(inside, inside[:, :, :1, :1].expand_as(inside), atol=1e-5)


@pytest.mark.parametrize("resample", [upsample, downsample])
def test_resampling_is_differentiable_twice(resample):
    images = torch.randn(1, 2, 4, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(resample, (images,))
    assert torch.autograd.gradgradcheck(lambda x: resample(x).square(), (images,))


@pytest.mark.parametrize("settings", [{}, {"patch": 2}, {"blocks": 2, "widths": (32, 16, 16)}])
def test_a_residual_pair_has_the_mirrored_parts(settings):
    spec = ImageSpec(height=16, width=16, mode="RGB")
    config = GANConfig(network="residual", width=32, group_size=16, **settings)
    networks = build_networks(config, spec)
    images = networks["generator"](torch.randn(3, 64))
    assert images.shape == (3, 3, 16, 16)
    scores = networks["discriminator"](images)
    assert scores.shape == (3,)
    stages = [len(n.trunk.stages) for n in networks.values()]
    assert stages == [3 - (settings.get("patch") == 2)] * 2


def test_samples_are_compared_with_their_group_and_nobody_else():
    torch.manual_seed(0)
    features = torch.randn(16, 5)
    whole = minibatch_deviation(features, 4)
    assert whole.shape == (16, 1)
    expected = features[1::4].std(0, correction=0).mean()
    torch.testing.assert_close(whole[1::4], expected.expand(4, 1))
    changed = features.clone()
    changed[1] += 1.0
    touched = (minibatch_deviation(changed, 4) != whole).squeeze(1)
    assert touched.nonzero().squeeze(1).tolist() == [1, 5, 9, 13]


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_groups_are_the_same_on_any_number_of_ranks_and_parts(size: int):
    torch.manual_seed(1)
    features = torch.randn(48, 7)
    whole = minibatch_deviation(features, 4)
    for rank in range(size):
        torch.testing.assert_close(
            minibatch_deviation(features[rank::size], 4), whole[rank::size], rtol=0, atol=0
        )


def test_real_and_generated_pictures_never_share_a_group():
    torch.manual_seed(2)
    real, fake = torch.randn(8, 3), 5.0 * torch.randn(8, 3)
    both = minibatch_deviation(torch.cat((real, fake)), 4, sets=2)
    apart = torch.cat((minibatch_deviation(real, 4), minibatch_deviation(fake, 4)))
    assert torch.equal(both, apart)


def test_rows_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match="10 rows in 1 sets"):
        minibatch_deviation(torch.zeros(10, 2), 4)


def test_equal_samples_have_a_finite_gradient():
    features = torch.zeros(4, 3, requires_grad=True)
    minibatch_deviation(features, 4).sum().backward()
    assert torch.equal(features.grad, torch.zeros(4, 3))


def test_the_discriminator_sees_that_generated_pictures_are_all_alike():
    spec = ImageSpec(height=16, width=16, mode="L")
    torch.manual_seed(0)
    discriminator = build_networks(GANConfig(minibatch_deviation=True), spec)["discriminator"]
    images = torch.rand(8, 1, 16, 16) * 2 - 1
    alone = discriminator(images[:1].expand(8, -1, -1, -1))
    among_others = discriminator(images)
    assert not torch.isclose(alone[0], among_others[0], rtol=1e-3)


@pytest.mark.parametrize(("expansion", "group_size"), [(3, 64), (6, 4), (2, 16)])
def test_widths_that_do_not_divide_are_refused_with_some_that_do(expansion, group_size):
    with pytest.raises(UsageError, match="do not divide") as refused:
        shape(28, widths=(51, 51, 51), expansion=expansion, group_size=group_size)
    whole = int(str(refused.value.remedy).split("multiples of ")[1].split()[0])
    shape(28, widths=(whole,) * 3, expansion=expansion, group_size=group_size)
