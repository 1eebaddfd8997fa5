import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from distgen.training.meters import Record, Sums

YES, NO = torch.tensor(True), torch.tensor(False)


def logs(**terms):
    return {name: torch.tensor(value) for name, value in terms.items()}


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=20))
def test_means_are_over_the_steps_that_were_taken(steps):
    sums = Sums(torch.float64)
    for value, taken in steps:
        bad = value if taken else math.nan
        sums.add("model", Record.of([logs(loss=bad)], YES if taken else NO))
    means, taken_steps = sums.means(sums.flat())
    values = [value for value, taken in steps if taken]
    assert taken_steps == {"model": len(values)}
    if not values:
        assert means == {}
        return
    expected = sum(torch.tensor(value, dtype=torch.float32).item() for value in values)
    assert math.isclose(means["model/loss"], expected / len(values), rel_tol=1e-6, abs_tol=1e-3)


def test_a_term_that_comes_now_and_then_has_its_own_mean():
    sums = Sums()
    sums.add("d", Record.of([logs(loss=1.0)], YES))
    sums.add("d", Record.of([logs(loss=3.0, r1=8.0)], YES))
    means, taken = sums.means(sums.flat())
    assert means == {"d/loss": 2.0, "d/r1": 8.0}
    assert taken == {"d": 2.0}


def test_the_parts_of_a_step_are_averaged():
    sums = Sums()
    sums.add("d", Record.of([logs(loss=1.0), logs(loss=4.0)], YES))
    assert sums.means(sums.flat())[0] == {"d/loss": 2.5}


def test_sums_come_back_from_a_checkpoint_and_are_added_over_ranks():
    sums, again = Sums(torch.float64), Sums(torch.float64)
    for phase in ("d", "g"):
        sums.add(phase, Record.of([logs(loss=1.5)], YES))
    again.restore(sums.state())
    assert torch.equal(again.flat(), sums.flat())
    again.become(2 * again.flat())
    again.add("g", Record.of([logs(loss=4.5)], YES))
    assert again.means(again.flat())[0] == {"d/loss": 1.5, "g/loss": 2.5}
