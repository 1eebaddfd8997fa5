"""What a card says of latents, and the sheet that shows what each of them does."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from distgen.data import open_shard_set
from distgen.metrics.card import Card
from distgen.metrics.latents import LatentGroupScores, LatentScores, Strength, measure, steps
from distgen.metrics.ranks import Ranks
from distgen.metrics.reals import PictureSet, choose_pictures
from distgen.metrics.traversal import ROWS, VALUES, change, strongest, traversal_sheet, traverse
from distgen.models import HVAEConfig, build_networks
from distgen.models.likelihoods import Bernoulli
from distgen.models.single import SingleLatentModel

DEVICE = torch.device("cpu")


class Told(nn.Module):
    """Latent 2 tells the picture's brightness well, latent 0 vaguely, latent 1 nothing."""

    def forward(self, observed_nchw: Tensor) -> Tensor:
        bright = (observed_nchw.flatten(1).mean(1, keepdim=True) - 0.3) * 10
        means = torch.cat([0.3 * bright, torch.zeros_like(bright), bright], dim=1)
        raw = torch.tensor([-0.1, 0.0, -1.0]).expand_as(means)
        return torch.cat([means, raw], dim=1)


class Shown(nn.Module):
    """Latent 2 is how bright the picture is, latent 0 a little of its corner."""

    def forward(self, latents_nd: Tensor) -> Tensor:
        pixels = latents_nd[:, 2].view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
        pixels[:, 0, 0, 0] += 0.1 * latents_nd[:, 0]
        return pixels


@pytest.fixture
def held_out(digits) -> PictureSet:
    return choose_pictures(open_shard_set(digits, "test"), 100, "test", "likelihood")


@pytest.fixture
def model() -> SingleLatentModel:
    return SingleLatentModel(Told(), Shown(), Bernoulli(), 3).eval()


@pytest.fixture
def small(held_out) -> nn.Module:
    torch.manual_seed(0)
    config = HVAEConfig(latent_dim=4, width=8, hidden=8)
    return build_networks(config, held_out.shard_set.spec)["model"].eval()


def scores_of(model: nn.Module, held_out: PictureSet) -> LatentScores:
    scores = measure(model, held_out, seed=0, device=DEVICE, ranks=Ranks())
    assert scores is not None
    return scores


def small_pictures(held_out: PictureSet) -> PictureSet:
    """The digits as the toy model sees them, 8x8."""

    class Shrunk(PictureSet):
        def samples(self, rows: range) -> np.ndarray:
            return super().samples(rows)[:, ::2, ::2]

    return Shrunk(held_out.shard_set, held_out.indices_n, held_out.split)


def test_latents_are_ordered_by_what_they_hold(model, held_out):
    (group,) = scores_of(model, small_pictures(held_out)).groups
    assert [strength.index for strength in group.strongest] == [2, 0, 1]
    kls = [strength.kl_nats for strength in group.strongest]
    assert kls[0] > kls[1] > kls[2] == 0.0
    assert group.kl_nats == pytest.approx(sum(kls))


def test_units_whose_mean_follows_the_picture_are_active(model, held_out):
    scores = scores_of(model, small_pictures(held_out))
    assert (scores.active, scores.groups[0].active, scores.size) == (2, 2, 3)


def test_rate_and_distortion_are_the_terms_of_the_bound_and_change_with_what_is_kept(
    model, held_out
):
    scores = scores_of(model, small_pictures(held_out))
    assert [point.kept for point in scores.curve] == [0, 1, 2, 3]
    assert scores.curve[0].rate_nats == 0.0
    assert scores.curve[-1].rate_nats == pytest.approx(scores.groups[0].kl_nats)
    assert (scores.rate_nats, scores.distortion_nats) == (
        scores.curve[-1].rate_nats,
        scores.curve[-1].distortion_nats,
    )
    # The first latent that is kept tells the brightness.
    assert scores.curve[1].distortion_nats < scores.curve[0].distortion_nats - 1.0


def test_a_hierarchy_s_groups_are_told_apart(small, held_out):
    scores = scores_of(small, held_out)
    assert [group.size for group in scores.groups] == [4, 64, 128]
    for group, start in zip(scores.groups, (0, 4, 68), strict=True):
        assert all(start <= s.index < start + group.size for s in group.strongest)
    assert sum(group.kl_nats for group in scores.groups) == pytest.approx(scores.rate_nats)
    assert scores.rate_nats + scores.distortion_nats > 0


def test_powers_of_two_lie_between_nothing_and_everything():
    assert steps(1) == (0, 1)
    assert steps(4) == (0, 1, 2, 4)
    assert steps(5) == (0, 1, 2, 4, 5)


def group_of(*kl_nats: float, start: int = 0) -> LatentGroupScores:
    strengths = tuple(Strength(index=start + i, kl_nats=kl) for i, kl in enumerate(kl_nats))
    return LatentGroupScores(size=len(kl_nats), kl_nats=sum(kl_nats), active=1, strongest=strengths)


def test_a_sheet_s_rows_are_shared_by_groups_in_the_order_of_kl():
    one, many = group_of(3.0), group_of(*[1.0 - i / 100 for i in range(16)], start=1)
    shown = strongest([one, many, group_of(*[0.5] * 16, start=17)], rows=11)
    assert [len(each) for each in shown] == [1, 5, 5]
    assert [s.index for s in shown[1]] == [1, 2, 3, 4, 5]
    assert [len(each) for each in strongest([many, one], rows=ROWS)] == [16, 1]


def test_empty_latents_get_no_row_and_empty_groups_one():
    shown = strongest([group_of(2.0, 1.0, 0.001), group_of(0.0, 0.0, start=3)])
    assert [[s.index for s in each] for each in shown] == [[0, 1], [3]]


def test_a_row_moves_one_latent_and_holds_the_others(small):
    base = torch.randn(small.latent_dim)
    pictures = traverse(small, base, [2, 70])
    assert pictures.shape == (2, len(VALUES), 16, 16, 1)
    moved = base.clone()
    moved[70] = VALUES[-1]
    again = traverse(small, moved, [70], values=(VALUES[-1],))
    assert np.array_equal(pictures[1, -1], again[0, 0])
    assert np.array_equal(change(pictures[0]), np.ptp(pictures[0], axis=0))


def test_the_sheet_shows_every_row_and_where_it_changes(model):
    sheet = traversal_sheet(model, [group_of(0.4, 0.0, 1.2)], device=DEVICE)
    image = np.asarray(Image.open(io.BytesIO(sheet)).convert("L"))
    # Two lines of text, two rows: the third latent holds nothing.
    cell = 56 + 2
    assert image.shape[0] == 2 * 16 + 2 * cell + 2
    assert image.shape[1] > (len(VALUES) + 1) * cell


def test_a_sheet_of_large_pictures_shows_them_reduced(model, monkeypatch):
    monkeypatch.setattr("distgen.metrics.grid.LEAST_SIDE", 4)
    monkeypatch.setattr("distgen.metrics.grid.MAX_PIXELS", 2_000)
    sheet = traversal_sheet(model, [group_of(0.4, 0.0, 1.2)], device=DEVICE)
    assert Image.open(io.BytesIO(sheet)).height == 2 * 16 + 2 * (4 + 2) + 2


def test_a_card_from_before_there_were_latents_still_loads():
    text = """{"version": 1, "family": "vae", "images_seen": 7,
      "data": {"name": "digits", "fingerprint": "ab"}, "samples": 4, "floor_split": "test",
      "neighbours": 3, "extractors": [{"name": "pixel-pca64", "digest": "cd", "dimensions": 64,
        "generated": {"frechet_distance": 2.0, "precision": 1.0, "recall": 1.0, "density": 1.0,
          "coverage": 1.0},
        "floor": {"frechet_distance": 1.0, "precision": 1.0, "recall": 1.0, "density": 1.0,
          "coverage": 1.0}}],
      "likelihood": {"bound_nats": 234.2, "standard_error_nats": 2.4, "elbo_nats": 238.5,
        "bits_per_dim": 0.43, "importance_samples": 500, "images": 1000, "split": "test"},
      "not_finite": 0, "seed": 0, "seconds": 1.0}"""
    card = Card.model_validate_json(text)
    assert card.latents is None
    assert "active_units" not in card.figures()
