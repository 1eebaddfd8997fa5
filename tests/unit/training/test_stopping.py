from hypothesis import given
from hypothesis import strategies as st

from distgen.training.signals import Graded
from distgen.training.stopping import (
    EarlyStopConfig,
    best_card,
    cards_without_improvement,
    should_stop,
)

headlines = st.lists(st.floats(0.1, 1e4), max_size=12)


def cards(values, yardstick="all alike"):
    return [Graded(100 * i, value, 1.0, 0.5, yardstick) for i, value in enumerate(values, 1)]


def test_nothing_is_best_and_nothing_stops_before_the_first_card():
    assert best_card([]) is None
    assert not should_stop([], EarlyStopConfig(patience=1))


def test_without_a_wish_no_run_stops():
    assert not should_stop(cards([1.0] * 50), None)


@given(headlines.filter(bool))
def test_the_best_card_is_the_lowest_and_of_equals_the_oldest(values):
    best = best_card(cards(values))
    assert best.headline == min(values)
    assert best.images_seen == 100 * (values.index(min(values)) + 1)


@given(headlines, st.floats(0.0, 0.5))
def test_waiting_begins_anew_with_each_card_that_improves(values, least):
    before = cards_without_improvement(cards(values), least)
    assert 0 <= before <= max(0, len(values) - 1)
    better = min(values, default=1.0) * (1.0 - least) * 0.99
    assert cards_without_improvement(cards([*values, better]), least) == 0
    if values:
        assert cards_without_improvement(cards([*values, max(values)]), least) == before + 1


def test_a_run_stops_after_its_patience_and_not_before():
    config = EarlyStopConfig(patience=3, min_improvement=0.01)
    values = [100.0, 50.0, 49.9, 51.0, 60.0]  # 49.9 is less than one per cent better
    assert [should_stop(cards(values[:n]), config) for n in range(1, 6)] == [False] * 4 + [True]


def test_small_steps_that_add_up_to_an_improvement_count():
    config = EarlyStopConfig(patience=3, min_improvement=0.01)
    assert not should_stop(cards([100.0, 99.5, 98.9, 98.5, 97.8]), config)


def test_cards_that_were_measured_otherwise_are_left_out():
    old, new = cards([1.0, 1.1], "64 pictures"), cards([50.0, 40.0], "5,000 pictures")
    assert best_card([*old, *new]).headline == 40.0
    assert cards_without_improvement([*old, *new], 0.0) == 0
