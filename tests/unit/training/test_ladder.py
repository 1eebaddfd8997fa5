import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.core.storage import locate
from distgen.objectives import ELBOConfig, HingeConfig, RelativisticConfig, WassersteinConfig
from distgen.training.checkpoint import Manifest
from distgen.training.ladder import (
    Journal,
    RollBack,
    Settings,
    choose_target,
    decide,
    gave_up,
    penalised,
    still_counts,
)
from distgen.training.signals import Finding, HealthConfig

CONFIG = HealthConfig()
GRAVE = Finding("mode collapse", 0.01, 0.08, streak=3, patience=3)
DOUBTFUL = Finding("mode collapse", 0.01, 0.08, streak=1, patience=3)
MILD = Finding("posterior collapse", 0.01, 0.05, streak=3, patience=3, grave=False)
NOT_FINITE = Finding("weights not finite", 0.0, 1.0, streak=1, patience=1)


def manifest(images_seen, rollbacks=0, healthy=True):
    return Manifest(
        images_seen=images_seen, rollbacks=rollbacks, healthy=healthy, parts=(), files={}
    )


def rollback(at, to):
    return RollBack(at=at, to=to, signal="mode collapse", value=0.0, threshold=0.1)


def test_the_rungs_are_taken_in_order():
    assert decide([], 0, CONFIG, one_sided=False).action == "go on"
    assert decide([DOUBTFUL], 0, CONFIG, one_sided=False).action == "go on"
    assert decide([MILD], 0, CONFIG, one_sided=False).action == "warn"
    assert decide([MILD, GRAVE], 0, CONFIG, one_sided=False).action == "roll back"
    assert decide([GRAVE], 2, CONFIG, one_sided=False).action == "roll back"
    last = decide([MILD, GRAVE], 3, CONFIG, one_sided=False)
    assert last.action == "give up"
    assert last.cause == GRAVE


def test_a_state_with_a_grave_sign_is_not_healthy_though_nothing_is_done_yet():
    assert not decide([DOUBTFUL], 0, CONFIG, one_sided=False).healthy
    assert decide([MILD], 0, CONFIG, one_sided=False).healthy


def test_one_sided_pictures_are_waited_out_unless_weights_are_lost():
    verdict = decide([GRAVE], 0, CONFIG, one_sided=True)
    assert verdict.action == "warn"
    assert not verdict.healthy
    assert decide([GRAVE, NOT_FINITE], 0, CONFIG, one_sided=True).action == "roll back"


def test_a_rollback_goes_to_the_newest_healthy_checkpoint_before_the_trouble():
    found = [manifest(100), manifest(200), manifest(300, healthy=False), manifest(400)]
    assert choose_target(found, [], onset=350) == 200
    assert choose_target(found, [], onset=400) == 400
    assert choose_target(found, [], onset=50) == 0, "the beginning is always there"
    assert choose_target([], [], onset=500) == 0


def test_a_second_rollback_from_the_same_place_goes_one_checkpoint_further_back():
    found = [manifest(100), manifest(200)]
    assert choose_target(found, [rollback(300, 200)], onset=290) == 100
    assert choose_target(found, [rollback(300, 200), rollback(310, 100)], onset=290) == 0
    newer = [*found, manifest(250, rollbacks=1)]
    assert choose_target(newer, [rollback(300, 200)], onset=290) == 250


def test_checkpoints_that_a_rollback_left_behind_do_not_count_and_newer_ones_do():
    went_back = [rollback(300, 200)]
    assert still_counts(manifest(200), went_back)
    assert not still_counts(manifest(250), went_back)
    assert still_counts(manifest(250, rollbacks=1), went_back)
    further = [*went_back, rollback(260, 100)]
    assert not still_counts(manifest(250, rollbacks=1), further)
    assert not still_counts(manifest(200), further)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=4))
def test_what_is_chosen_always_counts_afterwards(steps):
    rollbacks, found = [], []
    for number, (clock, onset) in enumerate(steps):
        found = [m for m in found if still_counts(m, rollbacks)] + [manifest(clock, number)]
        to = choose_target(found, rollbacks, onset)
        rollbacks.append(rollback(60, to))
        assert to == 0 or any(m.images_seen == to for m in found if still_counts(m, rollbacks))


def test_the_journal_keeps_rollbacks_in_order(tmp_path):
    journal = Journal(locate(tmp_path))
    assert journal.read() == ()
    for row in (rollback(300, 200), rollback(310, 100)):
        journal.add(row)
    assert journal.read() == (rollback(300, 200), rollback(310, 100))


def test_settings_become_gentler_with_each_rollback():
    first = Settings.after(1, CONFIG)
    assert first.learning_rate_factor == 0.5
    assert first.objective(RelativisticConfig(r1=0.3, r2=0.2)).r1 == 0.6
    assert first.objective(WassersteinConfig()).gradient_penalty == 20.0
    second = Settings.after(2, CONFIG)
    assert second.learning_rate_factor == 0.25
    assert second.objective(RelativisticConfig(r1=0.3, r2=0.2)).r2 == 0.8


def test_a_penalty_of_nothing_becomes_one():
    gentler = Settings.after(1, CONFIG).objective(RelativisticConfig(r1=0.0, r2=0.0))
    assert (gentler.r1, gentler.r2) == (CONFIG.penalty_floor, CONFIG.penalty_floor)


@pytest.mark.parametrize("config", [RelativisticConfig(), HingeConfig(r1=0.0), ELBOConfig()])
def test_before_the_first_rollback_settings_are_those_of_the_job(config):
    same = Settings.after(0, CONFIG)
    assert same.objective(config) == config
    assert same.learning_rate_factor == 1.0
    assert same.noise_seed(42) == 42


def test_an_objective_without_any_penalty_is_known():
    assert penalised(RelativisticConfig(r1=0.3, r2=0.0))
    assert not penalised(RelativisticConfig(r1=0.0, r2=0.0))
    assert penalised(WassersteinConfig())
    assert penalised(ELBOConfig()), "it has no discriminator"


def test_objectives_without_penalties_stay_as_they_are_and_noise_is_new():
    settings = Settings.after(1, CONFIG)
    assert settings.objective(ELBOConfig()) == ELBOConfig()
    assert len({Settings.after(n, CONFIG).noise_seed(42) for n in range(4)}) == 4


def test_a_run_that_is_given_up_says_what_was_seen_and_what_to_try():
    error = gave_up("runs/mine", 5_000, GRAVE, [rollback(300, 200)])
    text = str(error)
    for word in ("5,000", "all the same", "runs/mine", "0.01", "at 300, back to 200", "r1",
                 "--fresh", "health.max_rollbacks"):  # fmt: skip
        assert word in text
    assert error.exit_code == 1
