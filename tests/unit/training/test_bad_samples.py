"""Damaged samples in a run: it goes on, says so once for all ranks, and ends past its budget."""

import shutil
from pathlib import Path

import pytest

from distgen.core.errors import DataError, PreemptedError
from distgen.core.world import World
from distgen.data import open_shard_set
from distgen.data.index import IndexReader
from distgen.data.streaming.bad import BadSample, Tolerance
from distgen.metrics.card import evaluate_card
from distgen.training import measuring
from distgen.training.bad_samples import BadSamples
from distgen.training.run import prepare
from distgen.training.trainer import train

BAD = (7, 300, 301, 1_200)


@pytest.fixture
def damaged(digits, tmp_path) -> str:
    """The digits with a flipped bit in some of the training pictures."""
    folder = tmp_path / "damaged"
    shutil.copytree(digits, folder)
    shard_set = open_shard_set(str(folder), "train")
    rows = IndexReader(shard_set).rows(0)
    place = shard_set.shard(0).local
    data = bytearray(place.read_bytes())
    for index in BAD:
        data[int(rows.offset[index]) + 30] ^= 4
    place.write_bytes(data)
    return str(folder)


@pytest.fixture
def start_damaged(make_job, damaged):
    """Prepares a run on the damaged set."""

    def start(name="small", **data):
        job = make_job("vae", name, images=1_600)
        config = job.data.model_copy(update={"shards": damaged, "cache": "none", **data})
        job = job.model_copy(update={"data": config})
        return prepare(job, open_shard_set(damaged, "train").fingerprint)

    return start


def test_a_run_goes_on_and_notes_each_damaged_sample_once(start_damaged, monkeypatch):
    tolerances = []

    def noted_card(*args, **options):
        tolerances.append(options["tolerance"])
        return evaluate_card(*args, **options)

    monkeypatch.setattr(measuring, "evaluate_card", noted_card)
    run = start_damaged(on_error="substitute", bad_budget=len(BAD))
    with pytest.raises(PreemptedError):
        train(run.job(), on_tick=lambda tick: tick.images_seen >= 960)
    train(run.job())  # what it resumes from was met before
    noted = run.bad_samples()
    # 1,600 images are more than an epoch.
    assert sorted(bad.index for bad in noted) == list(BAD)
    assert noted[0].key
    assert "changed after they were written" in noted[0].reason
    assert run.is_finished(1_600)
    assert tolerances == [Tolerance("substitute", len(BAD))], "a card needs the set, too"


def test_without_substitutes_a_damaged_sample_ends_the_run(start_damaged):
    run = start_damaged()
    with pytest.raises(DataError, match="checksum"):
        train(run.job())
    assert not Path(f"{run.location}/bad_samples.jsonl").exists()


def test_past_the_budget_the_run_ends(start_damaged):
    run = start_damaged(on_error="substitute", bad_budget=2)
    with pytest.raises(DataError, match="no more than 2"):
        train(run.job())


class Ranks:
    """As a Collective, with what the other ranks say given beforehand."""

    def __init__(self, others: list[list[BadSample]]) -> None:
        self.world = World(0, 2)
        self.others = others

    def gather_list(self, values: list[BadSample]) -> list[BadSample]:
        return [*values, *self.others.pop(0)]


def test_ranks_count_their_damaged_samples_together(make_job):
    run = prepare(make_job("vae"), "fingerprint")
    one, two, three = (BadSample(i, "a.tar", f"key-{i}", "reason") for i in (1, 2, 3))
    bad = BadSamples(run, Ranks([[two], [two, three]]), Tolerance("substitute", 2), 50)
    bad.add(one)
    bad.add(two)
    bad.share()
    assert run.bad_samples() == [one, two]
    with pytest.raises(DataError, match="3 samples are damaged"):
        bad.share()
    assert run.bad_samples() == [one, two, three], "the last one is noted before the run ends"

    resumed = BadSamples(run, Ranks([[two]]), Tolerance("substitute", 3), 50)
    resumed.add(one)
    resumed.share()
    assert run.bad_samples() == [one, two, three], "what was noted is not noted again"
