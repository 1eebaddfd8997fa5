"""Signals on constructed series: found where they are, and silent where nothing is wrong."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.objectives import KINDS
from distgen.training.health import History, Sight
from distgen.training.ladder import PENALTIES
from distgen.training.probe import Glance
from distgen.training.signals import (
    MEANING,
    Graded,
    HealthConfig,
    card_state,
    class_skew,
    discriminator_state,
    is_late,
    loss_divergence,
    loss_limit,
    meaning,
    mode_collapse,
    picture_divergence,
    posterior_collapse,
    streak,
    update_state,
)

CONFIG = HealthConfig()
PATIENCE = CONFIG.patience


def found(findings):
    return [finding.signal for finding in findings if finding is not None]


@given(st.lists(st.booleans()))
def test_a_streak_is_what_the_series_ends_with(flags):
    count = streak([float(flag) for flag in flags], bool)
    assert all(flags[len(flags) - count :])
    assert count == len(flags) or not flags[len(flags) - count - 1]


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=8, max_size=40),
    st.floats(0.1, 10.0),
    st.floats(1.0, 20.0),
)
def test_the_limit_of_a_loss_moves_with_its_unit_and_lies_above_its_median(losses, unit, spreads):
    limit = loss_limit(losses, spreads)
    assert limit > np.median(losses)
    scaled = loss_limit([unit * loss for loss in losses], spreads)
    assert math.isclose(scaled, unit * limit, rel_tol=1e-9, abs_tol=1e-9)


def test_a_loss_that_explodes_is_found_and_raised_when_it_stays():
    losses = [230.0 + 0.3 * i for i in range(20)]
    finding = loss_divergence("model/loss", [*losses, 2_000.0], CONFIG)
    assert finding is not None
    assert not finding.raised, "one look may be an accident"
    lasting = loss_divergence("model/loss", [*losses, *[2_000.0] * PATIENCE], CONFIG)
    assert lasting.raised
    assert lasting.grave
    over = loss_divergence("model/loss", [*losses, 2_000.0, 236.0], CONFIG)
    assert over is None, "it has come back"


@pytest.mark.parametrize(
    "losses",
    [
        [540.0 * 0.9**i + 230 for i in range(40)],  # a VAE learns
        [-1_000.0 - 50 * i for i in range(40)],  # a Gaussian likelihood goes below zero
        [100.0 + 4.0 * min(i, 30) for i in range(40)],  # KL warm-up raises the loss
        [0.7 + 0.2 * math.sin(i) for i in range(40)],  # a GAN goes round
        [8.0 - 0.5 * i + 3 * math.cos(2 * i) for i in range(40)],  # a critic's distance
        [0.0] * 40,
    ],
)
def test_losses_as_healthy_runs_have_them_are_no_divergence(losses):
    for end in range(1, len(losses) + 1):
        assert loss_divergence("loss", losses[:end], CONFIG) is None


def test_a_young_series_has_no_usual_range():
    assert loss_divergence("loss", [1.0, 1e9, 1e9, 1e9, 1e9], CONFIG) is None


def test_pictures_that_become_all_the_same_are_a_mode_collapse():
    varied = [0.7, 0.9, 0.95]
    assert mode_collapse([*varied, 0.3], 0.9, CONFIG, late=False) is None
    finding = mode_collapse([*varied, *[0.01] * PATIENCE], 0.9, CONFIG, late=False)
    assert finding.raised
    assert finding.grave


def test_a_young_generator_may_draw_the_same_picture_always_and_an_old_one_may_not():
    same = [0.01] * 10
    assert mode_collapse(same, 0.01, CONFIG, late=False) is None
    assert mode_collapse(same, 0.01, CONFIG, late=True).raised


def test_pictures_that_leave_the_real_ones_have_diverged():
    def diverged(distances, *, late=False):
        return picture_divergence(distances, min(distances), distances[0], CONFIG, late=late)

    near = [1.2, 0.6, 0.2, 0.15]
    assert diverged(near) is None
    assert diverged([*near, 0.5, 0.6]) is None
    assert diverged([*near, *[1.8] * PATIENCE]).raised
    never = [3.0, *[3.3] * 10]
    assert diverged(never) is None
    assert diverged(never, late=True).raised
    slowly = [3.0, 2.9, 2.8, 2.7, 2.6, 2.5]
    assert diverged(slowly, late=True) is None


def test_a_discriminator_that_wins_without_effort_is_told_and_no_more():
    series = {"discriminator/adversarial": [0.5, *[1e-6] * PATIENCE]}
    (finding,) = [f for f in discriminator_state(series, CONFIG) if f]
    assert finding.signal == "discriminator saturated"
    assert finding.raised
    assert not finding.grave
    scores = {"discriminator/real_score": [1e6] * 3, "discriminator/fake_score": [-1e6] * 3}
    assert len(found(discriminator_state(scores, CONFIG))) == 2
    healthy = {
        "discriminator/adversarial": [0.3] * 9, "discriminator/real_score": [40.0] * 9,
        "discriminator/fake_score": [-40.0] * 9,
    }  # fmt: skip
    assert found(discriminator_state(healthy, CONFIG)) == []
    assert found(discriminator_state({}, CONFIG)) == []


def test_a_discriminator_that_wins_with_no_penalty_to_hold_it_is_grave():
    series = {"discriminator/adversarial": [0.5, 0.2, *[0.03] * PATIENCE]}
    assert found(discriminator_state(series, CONFIG, penalised=True)) == []
    (finding,) = [f for f in discriminator_state(series, CONFIG, penalised=False) if f]
    assert finding.raised
    assert finding.grave


def test_a_network_that_stands_still_or_jumps_is_told():
    assert update_state("generator", [0.01, 0.0], CONFIG).streak == 1
    assert update_state("generator", [0.01, *[0.0] * PATIENCE], CONFIG).raised
    assert "jump" not in update_state("generator", [0.01, *[0.9] * PATIENCE], CONFIG).signal
    assert update_state("generator", [0.0, 1e-9, 0.02], CONFIG) is None


def test_a_kl_of_nothing_is_told_late_in_a_run():
    assert posterior_collapse([0.001] * 9, CONFIG, late=False) is None
    finding = posterior_collapse([0.001] * 9, CONFIG, late=True)
    assert finding.raised
    assert not finding.grave, "a strong decoder may be right"
    assert posterior_collapse([20.0] * 9, CONFIG, late=True) is None


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_classes_drawn_as_usual_are_not_one_sided_and_a_single_class_is(classes, seed):
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(classes, 2.0))
    usual = random.multinomial(1_000 * classes, shares).astype(float)
    now = random.multinomial(20 * classes, shares).astype(float)
    skew = class_skew(now, usual)
    assert 0.0 <= skew < CONFIG.class_skew
    one = np.zeros(classes)
    rare = int(usual.argmin())
    one[rare] = 500.0
    if (usual > 0).sum() > 1:
        assert class_skew(one, usual) > 0.99


def test_too_few_pictures_say_nothing_of_classes():
    assert class_skew(np.array([5.0, 0.0]), np.array([500.0, 500.0])) == 0.0
    assert class_skew(np.array([500.0, 0.0]), np.zeros(2)) == 0.0
    assert class_skew(np.array([500.0]), np.array([500.0])) == 0.0


def card(images_seen, headline, coverage=0.8, yardstick="y"):
    return Graded(images_seen, headline, 10.0, coverage, yardstick)


def test_two_bad_cards_in_a_row_are_grave_and_one_is_not():
    good = [card(1, 300.0), card(2, 100.0), card(3, 80.0)]
    assert card_state(good, CONFIG) == []
    (once,) = card_state([*good, card(4, 400.0)], CONFIG)
    assert not once.raised
    (twice,) = card_state([*good, card(4, 400.0), card(5, 380.0)], CONFIG)
    assert twice.raised
    assert twice.grave
    assert card_state([*good, card(4, 400.0), card(5, 90.0)], CONFIG) == []


def test_lost_coverage_is_found_though_the_headline_is_fine():
    cards = [card(1, 80.0, 0.8), card(2, 85.0, 0.1), card(3, 85.0, 0.1)]
    (finding,) = card_state(cards, CONFIG)
    assert finding.signal == "coverage lost"
    assert finding.raised


def test_a_headline_near_its_floor_may_double_by_chance():
    assert card_state([card(1, 11.0), card(2, 25.0), card(3, 24.0)], CONFIG) == []


def test_a_card_that_is_not_a_number_is_a_bad_one():
    (finding,) = card_state([card(1, 80.0), card(2, math.nan)], CONFIG)
    assert finding.signal == "card worse"


def test_cards_that_were_measured_otherwise_do_not_compare():
    assert card_state([card(1, 1.0), card(2, 300.0, yardstick="other")], CONFIG) == []


def test_a_run_is_late_after_a_quarter_and_enough_looks():
    assert not is_late(looks=19, images_seen=90_000, images=100_000)
    assert not is_late(looks=20, images_seen=20_000, images=100_000)
    assert is_late(looks=20, images_seen=25_000, images=100_000)
    assert not is_late(looks=20, images_seen=900, images=1_000), "nobody learns so soon"


def test_every_signal_has_a_meaning_and_something_to_try():
    for signal in MEANING:
        what, remedy = meaning(f"{signal}: generator")
        assert what.endswith("(generator)")
        assert remedy


def test_the_penalties_that_a_roll_back_raises_are_those_that_objectives_have():
    have = {name for kind in KINDS.values() for name in kind.model_fields}
    assert set(PENALTIES) <= have


def sight(images_seen, loss=0.5, diversity=0.9, distance=0.2, **changes):
    return Sight(
        images_seen=images_seen,
        losses={"discriminator/loss": loss, "generator/loss": loss},
        updates={"generator": 0.01},
        glance=Glance(diversity, distance),
        **changes,
    )


def watch(sights, images=10_000):
    """A history of looks, and what was found at the last one."""
    history = History()
    findings = []
    for one in sights:
        history.observe(one, CONFIG)
        findings = history.findings(one, [], CONFIG, images)
        history.conclude(one, findings)
    return history, findings


def test_a_history_knows_when_all_was_well_for_the_last_time():
    calm = [sight(100 * i) for i in range(1, 21)]
    history, findings = watch(calm)
    assert findings == []
    assert history.well_at == 2_000
    ill = [sight(100 * i, diversity=0.01) for i in range(21, 24)]
    history, findings = watch([*calm, *ill])
    assert found(findings) == ["mode collapse"]
    assert findings[0].raised
    assert history.well_at == 2_000, "from the first sign on it was not well"


def test_after_a_rollback_losses_are_measured_by_those_of_the_new_settings():
    history, _ = watch([sight(100 * i, loss=0.1) for i in range(1, 21)])
    history.begin_anew()
    for i in range(21, 26):
        higher = sight(100 * i, loss=3.0)  # a raised penalty is part of the loss
        history.observe(higher, CONFIG)
        assert history.findings(higher, [], CONFIG, 10_000) == []
    assert history.best_distance == 0.2, "pictures compare still"


def test_a_likelihood_model_that_draws_the_same_mean_is_only_told():
    calm = [sight(100 * i) for i in range(1, 21)]
    same = [
        Sight(100 * i, {"model/kl": 5.0, "model/loss": 9.0}, glance=Glance(0.01, 0.9))
        for i in range(21, 24)
    ]
    _, findings = watch([*calm, *same])
    (finding,) = [finding for finding in findings if finding.signal == "mode collapse"]
    assert finding.raised
    assert not finding.grave


def test_what_is_not_finite_is_grave_at_the_first_look():
    for change in ({"stuck_steps": CONFIG.stuck_steps}, {"weights_finite": False}):
        _, findings = watch([sight(100), sight(200, **change)])
        assert [f.raised and f.grave for f in findings] == [True]
    _, findings = watch([sight(100), sight(200, stuck_steps=1)])
    assert findings == [], "one batch may be bad"


CURVES = json.loads((Path(__file__).parent / "healthy_curves.json").read_text())


def recorded(curves, stretch):
    """The looks of a recorded run; its clock may be stretched, so that it counts as a long one."""
    for row, images_seen in enumerate(curves["images_seen"]):
        yield Sight(
            images_seen=stretch * images_seen,
            losses={k: v[row] for k, v in curves["losses"].items()},
            updates={k: v[row] for k, v in curves["updates"].items() if v[row] is not None},
            glance=Glance(curves["diversity"][row], curves["distance"][row]),
            class_skew=curves["class_skew"][row],
        )


@pytest.mark.parametrize("stretch", [1, 10])
@pytest.mark.parametrize("name", CURVES)
def test_recorded_healthy_runs_give_no_sign_at_all(name, stretch):
    """Ten runs on digits, short enough that most had much to learn still.

    All four adversarial objectives, VAEs and an RVAE: `tests/bench/health.py clean` on the
    built-in digits with width 16, 6,144 images, a look every 128.
    """
    sights = list(recorded(CURVES[name], stretch))
    assert len(sights) > 20
    for end in range(1, len(sights) + 1, 4):
        history, findings = watch(sights[:end], images=sights[-1].images_seen)
        assert found(findings) == []
    assert history.well_at == sights[end - 1].images_seen


def test_a_history_comes_back_from_json_as_it_was():
    history, _ = watch([sight(100 * i) for i in range(1, 30)])
    again = History()
    again.load_state_dict(history.state_dict())
    assert again == history
    fresh = History()
    fresh.load_state_dict(History().state_dict())
    assert fresh == History()


def test_a_signal_is_told_once_and_again_only_after_a_calm():
    history = History()
    told = []
    for i in range(1, 60):
        jumps = 5 <= i <= 20 or i >= 40
        one = Sight(100 * i, {}, updates={"generator": 0.9 if jumps else 0.01})
        history.observe(one, CONFIG)
        told += [i for _ in history.conclude(one, history.findings(one, [], CONFIG, 10_000))]
    assert told == [7, 42]
