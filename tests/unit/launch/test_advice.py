"""What is said of a job before its workers start."""

from distgen.core.config import parse
from distgen.core.storage import locate
from distgen.data import ShardSet, open_shard_set
from distgen.launch.train import advice_on_reading
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder


def test_a_new_run_is_told_of_better_lanes_and_an_old_one_cannot_change_them(digits, tmp_path):
    raw = {
        "name": "wide",
        "storage": str(tmp_path),
        "data": {"shards": digits},
        "model": {"family": "vae"},
        "training": {"images": 9600, "batch_size": 960},
        "scaling": {"workers": 48},
    }
    job = parse(TrainJob, raw, "a test")
    manifest = open_shard_set(digits, "train").manifest
    shard = manifest.shards[0].model_copy(update={"samples": 1_000_000, "bytes": 20_000_000_000})
    large = manifest.model_copy(update={"shards": (shard,), "num_samples": 1_000_000})
    remote = ShardSet(locate("s3://pictures/set?region=eu-west-1"), large)
    folder = RunFolder(job.location)
    assert "lanes=192" in str(advice_on_reading(job, remote, folder))
    folder.event("started", 0)
    assert advice_on_reading(job, remote, folder) is None
