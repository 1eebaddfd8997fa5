"""The end of a run: whose weights are bundled, and what is written down of it."""

from __future__ import annotations

from distgen.core.errors import PreemptedError
from distgen.core.spec import ImageSpec
from distgen.metrics.card import Card
from distgen.registry.bundle import write_bundle
from distgen.training import samples
from distgen.training.ema import EMA
from distgen.training.job import TrainJob
from distgen.training.keeper import Keeper
from distgen.training.report import write_report
from distgen.training.run import Finish, RunFolder
from distgen.training.signals import Graded


def stopped_by_request(
    run: RunFolder, job: TrainJob, images_seen: int, saved_at: int
) -> PreemptedError:
    """What is raised where a run was asked to stop.

    Args:
        run: The run's folder.
        job: How long it would have been.
        images_seen: Where it has stopped.
        saved_at: The last checkpoint's clock.
    """
    here = saved_at == images_seen
    return PreemptedError(
        f"Stopped at {images_seen:,} of {job.training.images:,} images; "
        + ("the checkpoint is written." if here else "weights are not finite, and not kept."),
        where=str(run.location),
        remedy=f"the same command goes on from {'here' if here else f'{saved_at:,} images'}",
    )


def write_ending(
    run: RunFolder,
    job: TrainJob,
    spec: ImageSpec,
    ema: EMA,
    keeper: Keeper,
    card: Card,
    best: Graded | None,
) -> tuple[str, Card]:
    """Write the bundle, `finish.json` and the last report. On rank 0.

    Args:
        run: The run's folder.
        job: Says whether the last or the best weights are bundled.
        spec: What the pictures are like.
        ema: The last averaged weights; those of the best card afterwards, where they are bundled.
        keeper: Has the best checkpoint.
        card: The card of the last weights.
        best: The best card's figures.

    Returns:
        The bundle's digest, and the card of its weights.
    """
    seen = card.images_seen or 0
    made_at = seen
    if job.training.bundle == "best" and best is not None and best.images_seen != seen:
        kept = run.card_at(best.images_seen)
        if kept.is_file() and keeper.restore_part(best.images_seen, "ema", ema):
            card, made_at = Card.model_validate(kept.read_json()), best.images_seen
            run.card.write_bytes(kept.read_bytes())
    run.bundle.remove()
    digest = write_bundle(
        run.bundle,
        model_config=job.model,
        spec=spec,
        state=ema.state_dict(),
        card=card,
        samples_png=samples.at_clock(run, made_at),
        name=job.name,
        images_seen=made_at,
    )
    early = job.training.early_stop if seen < job.training.images else None
    end = Finish(images=job.training.images, images_seen=seen, early_stop=early)
    run.finish.write_json(end.model_dump(mode="json"))
    if early is not None:
        run.event(
            "stopped early",
            seen,
            signal="no better quality card",
            value=early.patience,
            threshold=early.patience,
            action="ended the run",
            best=best.headline if best else None,
            best_at=best.images_seen if best else None,
        )
    run.event(
        "finished", seen, digest=digest, **({"weights_of": made_at} if made_at != seen else {})
    )
    write_report(run, job)
    return digest, card
