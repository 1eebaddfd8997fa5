"""`distgen demo`: the whole path on the built-in digits, from pictures to an endpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distgen.cli.console import console, strong

if TYPE_CHECKING:
    from distgen.core.storage import Location
    from distgen.training.job import TrainJob

JOB_FILE = Path(__file__).with_name("digits-gan.yaml")
PER_CLASS = 8


def demo(
    folder: Annotated[str, typer.Option(help="Where everything is put.")] = "demo",
    job_file: Annotated[
        str, typer.Option("--job", help="The training job, on the digits, below --folder.")
    ] = str(JOB_FILE),
    images: Annotated[
        int | None, typer.Option(help="A shorter or longer training, in images.", min=1)
    ] = None,
    port: Annotated[
        int, typer.Option(help="Port of the endpoint; 0 takes a free one.", min=0, max=65535)
    ] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train anew if done before.")] = False,
) -> None:
    """Train a generator of digits on two workers, serve it, and ask it for pictures.

    Builds a shard set from scikit-learn's scanned digits, trains a class-conditional GAN with
    DistributedDataParallel on Ray Train, evaluates it, promotes its bundle, serves it with Ray
    Serve and queries each class over HTTP. Everything it starts is stopped at the end.
    """
    from distgen.cli import models, train
    from distgen.cli.kinds import read_job
    from distgen.core.storage import locate
    from distgen.launch.cluster import connect
    from distgen.metrics.card import Card
    from distgen.registry.store import ModelStore
    from distgen.serving.deploy.endpoint import running

    started = time.monotonic()
    place = locate(folder)
    length = [] if images is None else [f"training.images={images}"]
    job = _below(place, read_job(job_file, length, "train"))

    _step(1, "Build a shard set of scanned digits")
    _build_shards(job.data.shards)
    with connect():
        _step(2, f"Train {job.training.images:,} images on {job.scaling.workers} workers")
        outcome = train.run(job, fresh=fresh)
        models.print_card(Card.model_validate(outcome.card))
        _step(3, "Promote the bundle")
        store = ModelStore(str(place / "models"))
        version = store.promote(locate(outcome.run) / "bundle", job.name, force=True)
        console.print(f"  {job.name}:{version} is now the champion")
        _step(4, "Serve it and ask for every class")
        with running(store.resolve(job.name), port=port) as url:
            console.print(f"  {url}/v1/images/generations")
            picture = place / "samples.png"
            _query_each_class(url, picture)
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    console.print()
    console.print(strong(f"Done in {minutes}:{seconds:02d}.", " Everything is stopped again."))
    _show_what_is_next(place, outcome.run, job.name)


def _below(place: Location, job: TrainJob) -> TrainJob:
    """The job with its shards and its run below `place`, whose name no YAML has to carry."""
    data = job.data.model_copy(update={"shards": str(place / "shards" / "digits")})
    return job.model_copy(update={"storage": str(place / "runs"), "data": data})


def _step(number: int, what: str) -> None:
    console.print()
    console.print(strong(f"{number}/4", f" {what}"))


def _build_shards(shards: str) -> None:
    from distgen.data import has_split, open_shard_set
    from distgen.data.building import build

    if not has_split(shards, "train"):
        build("digits", shards)
    counts = {split: open_shard_set(shards, split).num_samples for split in ("train", "test")}
    console.print(f"  {counts['train']:,} to train on, {counts['test']:,} held out: {shards}")


def _query_each_class(url: str, picture: Location) -> None:
    """One request per class over HTTP; a row of the grid for each."""
    import numpy as np

    from distgen.metrics.grid import grid_png
    from distgen.serving.client import Client

    client = Client(url)
    rows = [
        client.generate(prompt=name, n=PER_CLASS, seed=7).images_nhwc for name in client.classes()
    ]
    picture.write_bytes(grid_png(np.concatenate(rows), columns=PER_CLASS))
    console.print(f"  {len(rows)} classes, {PER_CLASS} pictures each: {picture}")


def _show_what_is_next(place: Location, run: str, name: str) -> None:
    console.print(
        f"""
  pictures   {place / "samples.png"}
  report     {run}/report.html
  model      {place / "models" / name}

Three commands to try next:

  distgen serve {name} --root {place / "models"}
  distgen query 7 -n 16 --out sevens.png
  distgen data build ~/Pictures/my-classes shards/mine --size 64
""",
    )
