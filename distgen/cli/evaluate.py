"""`distgen evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import console, print_json, strong

if TYPE_CHECKING:
    from distgen.core.storage import Location
    from distgen.data import ShardSet
    from distgen.metrics.card import Card
    from distgen.metrics.request import EvaluationConfig
    from distgen.registry import Bundle
    from distgen.training.job import TrainJob


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A run, a bundle, name, name@alias or name:version."),
    ],
    shards: Annotated[
        str | None, typer.Option(help="Path or URL of a shard set; by default the run's own.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=2, help="Generated pictures, and as many real ones.")
    ] = None,
    importance_samples: Annotated[
        int | None, typer.Option(min=1, help="Samples per picture of the likelihood bound.")
    ] = None,
    likelihood_images: Annotated[
        int | None, typer.Option(min=1, help="Held-out pictures of the likelihood bound.")
    ] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Also measure all that fits the model and takes minutes: modes, memorisation, "
            "and what a classifier learns from its pictures.",
        ),
    ] = False,
    inception_weights: Annotated[
        str | None,
        typer.Option(
            help="Also measure FID on Inception-v3 with the weights in this file "
            "(pip install 'distgen\\[fid]')."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the pictures made.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Where to save the card; by default beside the model.")
    ] = None,
    into_bundle: Annotated[
        bool,
        typer.Option(
            "--into-bundle", help="Also replace the card in the bundle; its digest changes."
        ),
    ] = False,
    root: Annotated[str, typer.Option(help="Path of the model store.")] = "models",
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Measure a model against real pictures, and show each figure beside its floor."""
    from distgen.core.storage import locate
    from distgen.registry import load_bundle, resolve_model, with_card

    bundle = load_bundle(resolve_model(model, root))
    if into_bundle:
        _refuse_store(bundle.location, root)
    job = _job_of(bundle.location)
    config = _config(
        job,
        {
            "samples": samples,
            "importance_samples": importance_samples,
            "likelihood_images": likelihood_images,
        },
    )
    if seed is None:
        seed = job.training.seed if job else 0
    data = _open(bundle, shards, job, model)
    if inception_weights is not None:
        config = _with_inception(config, inception_weights)
    if full:
        config = _full(config, bundle, data)
    place = locate(out) if out else _beside(bundle.location, job)
    sheet = place.parent / f"{place.name.removesuffix('.json')}.nearest.png"
    card = _measure(bundle, data, config, seed, job, sheet)
    place.write_text(card.model_dump_json(indent=2) + "\n")
    if into_bundle:
        with_card(bundle.location, card)
    if as_json:
        print_json(card.model_dump(mode="json"))
        return
    from distgen.cli.models import print_card

    console.print(strong(bundle.name, f"  {bundle.digest[:12]}\n"))
    print_card(card)
    console.print(f"\n  card     {place}")
    if card.memorisation is not None:
        console.print(f"  nearest  {sheet}")


def _measure(
    bundle: Bundle,
    data: tuple[ShardSet, ShardSet | None],
    config: EvaluationConfig,
    seed: int,
    job: TrainJob | None,
    sheet: Location,
) -> Card:
    import torch

    from distgen.cli.progress import LiveDisplay
    from distgen.data.streaming.bad import Tolerance
    from distgen.metrics.card import evaluate_card
    from distgen.training.process import suited

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with suited(device), LiveDisplay(bundle.name, transient=True) as display:

        def progress(detail: str) -> None:
            display.update(f"{bundle.name}  {detail}", detail, detail.rstrip("0123456789,/ "))

        return evaluate_card(
            bundle.model.to(device),
            bundle.config.model,
            *data,
            config,
            seed=seed,
            device=device,
            images_seen=bundle.config.images_seen,
            tolerance=job.data.tolerance if job else Tolerance(),
            on_progress=progress,
            on_sheet=sheet.write_bytes,
        )


def _open(
    bundle: Bundle, shards: str | None, job: TrainJob | None, model: str
) -> tuple[ShardSet, ShardSet | None]:
    """The training pictures and, where there are some, the held-out ones."""
    from distgen.core.errors import UsageError
    from distgen.data import has_split, open_shard_set

    url = shards or (job.data.shards if job else None)
    if url is None:
        raise UsageError(
            "A bundle does not say where its pictures came from.",
            where=str(bundle.location),
            remedy=f"distgen evaluate {model} --shards PATH",
        )
    data = open_shard_set(url, "train")
    held_out = open_shard_set(url, "test") if has_split(url, "test") else None
    made, found = bundle.spec, data.spec
    if (*made.shape, made.mode) != (*found.shape, found.mode):
        raise UsageError(
            f"The model makes {made.samples_text}; the shard set holds {found.samples_text}.",
            where=str(data.location),
            remedy="give the shard set that it was trained on: --shards PATH",
        )
    if made.classes != found.classes and getattr(bundle.config.model, "conditional", False):
        raise UsageError(
            "The model's classes are not those of the shard set.",
            where=str(data.location),
            cause=f"{', '.join(made.classes)} against {', '.join(found.classes) or 'none'}",
            remedy="give the shard set that it was trained on: --shards PATH",
        )
    return data, held_out


def _config(job: TrainJob | None, changes: dict[str, Any]) -> EvaluationConfig:
    from distgen.metrics.request import EvaluationConfig

    config = job.evaluation if job else EvaluationConfig()
    given = {key: value for key, value in changes.items() if value is not None}
    return EvaluationConfig.model_validate({**config.model_dump(), **given})


def _with_inception(config: EvaluationConfig, weights: str) -> EvaluationConfig:
    """The same, and the usual FID."""
    from pathlib import Path

    path = str(Path(weights).expanduser().resolve())
    extractors = tuple(dict.fromkeys((*config.extractors, "inception-v3")))
    return config.model_copy(update={"extractors": extractors, "inception_weights": path})


def _full(
    config: EvaluationConfig, bundle: Bundle, data: tuple[ShardSet, ShardSet | None]
) -> EvaluationConfig:
    from distgen.metrics.reals import any_labelled
    from distgen.metrics.request import everything

    training, held_out = data
    model = bundle.config.model
    return everything(config, model, training.spec, held_out=any_labelled(held_out))


def _job_of(bundle: Location) -> TrainJob | None:
    """The job of the run that a bundle lies in, or None where it lies elsewhere."""
    from distgen.training.run import RunFolder

    run = RunFolder(bundle.parent)
    return run.job() if bundle.name == "bundle" and run.job_file.is_file() else None


def _beside(bundle: Location, job: TrainJob | None) -> Location:
    return bundle.parent / ("card.json" if job else f"{bundle.name}.card.json")


def _refuse_store(bundle: Location, root: str) -> None:
    from distgen.core.errors import UsageError
    from distgen.registry import ModelStore

    path = bundle.local
    if path is not None and path.resolve().is_relative_to(ModelStore(root).root.resolve()):
        raise UsageError(
            "A version in the model store never changes.",
            where=str(bundle),
            remedy="leave --into-bundle away, or evaluate the run and promote it again",
        )
