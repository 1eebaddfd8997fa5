"""What generated pictures are made of, and how many processes make them."""

from __future__ import annotations

import pytest

from distgen.core.errors import UsageError
from distgen.core.storage import locate
from distgen.generate.batch import Recipe, generate, recipe_for
from distgen.launch.cluster import Room
from distgen.launch.places import fitting_workers

CLASSES = ("circle", "square", "star")
TWO_NODES = ({"CPU": 3.0}, {"CPU": 4.0, "GPU": 1.0})


def test_chosen_classes_take_turns():
    def labels(*chosen: str) -> list[int | None]:
        recipe = recipe_for("models/m", CLASSES, chosen, seed=5, truncation=None)
        return [recipe.picture(number).label for number in range(4)]

    assert labels("star", "circle") == [2, 0, 2, 0]
    assert labels() == [0, 1, 2, 0]
    assert Recipe("models/m", 5, (), None).picture(3).label is None


@pytest.mark.parametrize(
    ("names", "message"), [(CLASSES, "did you mean 'star'"), ((), "has no classes")]
)
def test_a_class_that_is_not_there_is_named(names, message):
    with pytest.raises(UsageError, match="start") as error:
        recipe_for("models/m", names, ["start"], seed=0, truncation=None)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 0), ("seed", -1), ("workers", 0), ("truncation", 0.0), ("truncation", float("nan"))],
)
def test_impossible_numbers_are_refused_before_anything_is_read(tmp_path, name, value):
    with pytest.raises(UsageError, match=f"{name} cannot be"):
        generate(locate(tmp_path / "no-bundle"), str(tmp_path / "set"), **{"count": 1, name: value})


@pytest.mark.parametrize(
    ("wanted", "gpus", "workers"), [(None, 0, 7), (2, 0, 2), (9, 0, 7), (None, 0.5, 2), (9, 1, 1)]
)
def test_no_more_workers_than_fit(wanted, gpus, workers):
    assert fitting_workers(Room(TWO_NODES), wanted, gpus) == workers


def test_a_cluster_without_room_is_refused_unless_it_can_grow():
    with pytest.raises(UsageError, match="No process with a CPU and 2 GPUs fits"):
        fitting_workers(Room(TWO_NODES), None, 2)
    with pytest.raises(UsageError, match="No process with a CPU fits"):
        fitting_workers(Room(({"CPU": 0.5}, {"GPU": 1.0})), 4, 0)
    assert fitting_workers(Room(TWO_NODES, can_grow=True), 9, 2) == 9
    assert fitting_workers(Room((), can_grow=True), None, 0) == 1
