"""The one training loop: batches in, phases of an objective through, everything else on ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial
from typing import Any

import torch

from distgen.core.errors import DataError, PreemptedError, TrainingError
from distgen.core.part import Part
from distgen.core.seeding import derive
from distgen.core.spans import span
from distgen.core.storage import Location
from distgen.core.world import World
from distgen.data import Batch, Stream, has_split, open_shard_set
from distgen.data.streaming.mixed import open_data
from distgen.metrics.card import Card, evaluate_card
from distgen.models import FAMILIES, build_networks
from distgen.objectives import build_objective
from distgen.registry.bundle import write_bundle
from distgen.training import checkpoint, curves, samples
from distgen.training.bad_samples import BadSamples
from distgen.training.collective import Collective
from distgen.training.compiling import compile_calls, to_compile
from distgen.training.ema import EMA
from distgen.training.inputs import open_stream, to_device
from distgen.training.job import TrainJob
from distgen.training.meters import Meters, Reading
from distgen.training.optim import build_optimizers, set_pace, train_only
from distgen.training.outcome import Outcome, headline
from distgen.training.process import suit_process
from distgen.training.report import write_report
from distgen.training.run import RunFolder, Tick
from distgen.training.writer import CheckpointWriter

OnTick = Callable[[Tick], bool]
"""Called on rank 0 with each point of the curves and every few seconds between; True asks the run
to stop."""

LOOK_EVERY_S = 5.0
"""Seconds between two looks at how a run goes: the longest that a wish to stop waits."""


class Trainer:
    """One rank's part of a run. Everything that must survive a restart is in `parts`."""

    def __init__(self, job: TrainJob, world: World, device: torch.device, on_tick: OnTick) -> None:
        self.job = job
        self.world = world
        self.device = device
        self.on_tick = on_tick
        self.run = RunFolder(job.location)
        self.collective = Collective(world)
        self.shard_set = open_shard_set(job.data.shards, "train")
        self.pictures = open_data(job.data)
        shards = job.data.shards
        self.held_out = open_shard_set(shards, "test") if has_split(shards, "test") else None
        self.spec = self.shard_set.spec

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(job.training.seed, "initial weights"))
            networks = build_networks(job.model, self.spec)
        # Convolutions are a fifth faster in this layout, on CPU cores as on tensor cores.
        self.networks = {
            name: network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for name, network in networks.items()
        }
        self.served = self.networks[FAMILIES[job.model.family].served]
        self.ema = EMA(self.served, job.training.ema_half_life)
        self.objective = build_objective(
            job.objective,
            job.model.family,
            int(self.served.latent_dim),
            getattr(self.served, "latent_groups", ()),
        )
        self.optimizers = build_optimizers(self.objective.phases, self.networks, job.training)
        self.meters = Meters(device)
        self.bad_samples = BadSamples(
            self.run, self.collective, job.data.tolerance, self.pictures.num_samples
        )
        self.images_seen = 0
        self.writer = CheckpointWriter(
            self.run.checkpoints, job.training.keep, partial(self.run.event, "checkpoint")
        )
        self.last_card: Card | None = None
        self._stop_wanted = False
        self._look_at = 0

        self._restore()
        names = to_compile(job.training.compile, device, self.objective.phases)
        compile_calls(self.networks, names, self._event)
        # Replicated last: wrapping copies rank 0's restored weights to every rank.
        self.replicas = self.collective.replicate(self.networks)
        self.curves = curves.Writer(self.run, self.images_seen) if world.is_main else None

    @property
    def parts(self) -> dict[str, Part]:
        """Everything that must survive a restart, by name."""
        return {
            **{f"network-{name}": network for name, network in self.networks.items()},
            **{f"optimizer-{name}": optimizer for name, optimizer in self.optimizers.items()},
            "ema": self.ema,
            **self.objective.parts,
        }

    def train(self) -> Outcome:
        """Train to the job's length, then evaluate and write the bundle.

        Raises:
            PreemptedError: A stop was asked for; the checkpoint is written.
            TrainingError: A loss is no longer a finite number.
        """
        with closing(self.writer):
            if self.collective.agree(self._owes_a_card()):
                self._evaluate()
            with self.open_stream() as stream:
                while self.images_seen < self.job.training.images:
                    self.advance(stream)
            return self._finish()

    def open_stream(self) -> Stream:
        """The pictures from where this run is."""
        return open_stream(
            self.job, self.pictures, self.world, self.images_seen, self.bad_samples.add
        )

    def advance(self, batches: Iterator[Batch]) -> None:
        """Wait for a batch, take a step on it, and do what is due after it."""
        with self.meters.waiting(), span("wait for pictures"):
            batch = next(batches)
        before = self.images_seen
        self.step(batch)
        with span("logging"):
            self._after_step(before)

    def step(self, batch: Batch) -> None:
        """One step on one global batch: each phase of the objective once, then the average."""
        config = self.job.training
        with span("pictures to device"):
            inputs = to_device(
                batch,
                self.job,
                self.world,
                self.device,
                self.images_seen,
                with_labels=bool(self.spec.classes),
            )
        parts = inputs.split(config.accumulate)
        for phase in self.objective.phases:
            optimizer = self.optimizers[phase.name]
            set_pace(optimizer, config, self.images_seen)
            optimizer.zero_grad(set_to_none=True)
            train_only(self.networks, phase.networks)
            networks = {
                name: (self.replicas if name in phase.networks else self.networks)[name]
                for name in self.networks
            }
            for number, part in enumerate(parts, start=1):
                # Gradients of all parts add up, and are synchronised with the last one's.
                trained = [networks[name] for name in phase.networks]
                with self.collective.apart(trained, unsynchronised=number < len(parts)):
                    with self._precision(), span(f"{phase.name}: forward"):
                        loss, logs = self.objective.loss(phase, networks, part)
                    # Exactly one backward: DDP synchronises gradients once per backward, and
                    # silently leaves those of a second one unsynchronised.
                    with span(f"{phase.name}: backward"):
                        (loss / len(parts)).backward()  # type: ignore[no-untyped-call]
                with span("logging"):
                    self.meters.add(phase.name, logs, weight=1.0 / len(parts))
            with span(f"{phase.name}: optimiser"):
                optimizer.step()
        self.objective.after_step(config.batch_size, self.collective.sum_on_device)
        self.images_seen += config.batch_size
        self.meters.step(config.batch_size)
        with span("average of weights"):
            self.ema.update(self.served, config.batch_size, self.images_seen)

    def _precision(self) -> AbstractContextManager[Any]:
        wanted = self.job.training.precision
        bf16 = wanted == "bf16" or (wanted == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16)

    def _after_step(self, before: int) -> None:
        config, seen = self.job.training, self.images_seen
        done = seen >= config.images
        checkpoint_due = crossed(before, seen, config.checkpoint_every) or done
        evaluation_due = crossed(before, seen, config.evaluate_every) and not done
        point_due = crossed(before, seen, config.tick_every) or checkpoint_due or evaluation_due
        if not point_due and seen < self._look_at:
            return
        # A look comes first always: weights are not kept before losses were found finite.
        stop = self._look(point_due)
        with self.meters.paused():
            saved = checkpoint_due or stop
            if saved:
                self._save()
            if evaluation_due and not stop:
                self._evaluate()
                stop = bool(self.collective.agree(self._stop_wanted))
            if stop and not done:
                if not saved:
                    self._save()
                self._stopped()

    def _look(self, point_due: bool) -> bool:
        """See how the run goes, draw a point of the curves if one is due; True asks for a stop."""
        reading = self.meters.read(self.collective)
        broken = [name for name, value in reading.losses.items() if not math.isfinite(value)]
        if broken:
            self._event("diverged", losses=broken)
            raise TrainingError(
                f"{', '.join(broken)} is not finite at {self.images_seen:,} images.",
                where=str(self.run.location),
                cause="the run diverged, most often by a learning rate that is too high",
                remedy="lower training.learning_rate and start with --fresh; "
                "the last checkpoint is from before",
            )
        self.bad_samples.share()
        self.writer.tell()
        stop = bool(self.collective.agree(self._say(reading, point_due)))
        if point_due or stop:
            self.meters.reset()
        # Ranks measure different speeds, and have to look at the same step.
        ahead = self.collective.agree(int(reading.images_per_s * LOOK_EVERY_S))
        self._look_at = self.images_seen + ahead
        return stop

    def _say(self, reading: Reading, point_due: bool) -> bool:
        """Tell on rank 0 how the run goes, and ask whether to stop; a stop is a point, too."""
        if self.curves is None:
            return False
        length = self.job.training.images
        tick = Tick(
            stage="train",
            images_seen=self.images_seen,
            images=length,
            images_per_s=reading.images_per_s,
            eta_s=max(0, length - self.images_seen) / max(reading.images_per_s, 1e-9),
            losses=reading.losses,
            data_wait=reading.data_wait,
            memory_gib=reading.memory_gib,
            headline=headline(self.last_card),
        )
        stop = self.on_tick(tick) or self._stop_wanted
        if point_due or stop:
            self.curves.tick(tick)
        return stop

    def _save(self) -> None:
        """Begin to write a checkpoint; the run goes on meanwhile."""
        if self.world.is_main:
            self.writer.save(self.images_seen, self.parts)

    def _settle(self) -> None:
        """Wait on every rank until the last checkpoint is written."""
        self.writer.wait()
        self.collective.barrier()

    def _restore(self) -> None:
        def damaged(place: Location, error: DataError) -> None:
            self._event("damaged checkpoint skipped", checkpoint=place.name, cause=error.what)

        self.images_seen = checkpoint.load_latest(self.run.checkpoints, self.parts, damaged)
        agreed = self.collective.agree(self.images_seen)
        if agreed != self.images_seen:
            raise DataError(
                f"Rank {self.world.rank} would go on from {self.images_seen:,} images, "
                f"rank 0 from {agreed:,}.",
                where=str(self.run.checkpoints),
                cause="nodes see different folders under this name, or one could not read a file",
                remedy="set storage to a place that all nodes share: a network disk or s3://",
            )
        if self.world.is_main:
            self.run.rewind(self.images_seen)
            self._event("resumed" if self.images_seen else "started", ranks=self.world.size)
        # Nobody prunes or writes before all have read.
        self.collective.barrier()

    def _stopped(self) -> None:
        self._settle()
        self._event("stopped")
        raise PreemptedError(
            f"Stopped at {self.images_seen:,} of {self.job.training.images:,} images; "
            "the checkpoint is written.",
            where=str(self.run.location),
            remedy="the same command goes on from here",
        )

    def _owes_a_card(self) -> bool:
        """Whether a stop or a fault came between the restored checkpoint and its evaluation."""
        config, seen = self.job.training, self.images_seen
        before = seen - config.batch_size
        if before < 0 or seen >= config.images or not crossed(before, seen, config.evaluate_every):
            return False
        rows = self.run.metrics() if self.world.is_main else []
        return not any(row["stage"] == "card" and row["images_seen"] == seen for row in rows)

    def _evaluate(self, *, last: bool = False) -> Card:
        config = self.job.evaluation

        def progress(detail: str) -> None:
            if self.world.is_main:
                tick = Tick(
                    stage="evaluate",
                    images_seen=self.images_seen,
                    images=self.job.training.images,
                    headline=headline(self.last_card),
                    detail=detail,
                )
                self._stop_wanted |= self.on_tick(tick)

        card = evaluate_card(
            self.ema.module,
            self.job.model,
            self.shard_set,
            self.held_out,
            config if last else config.between,
            seed=self.job.training.seed,
            world=self.world,
            device=self.device,
            images_seen=self.images_seen,
            tolerance=self.job.data.tolerance,
            gather=self.collective.gather_rows,
            on_progress=progress,
            on_sheet=lambda png: samples.keep_nearest(self.run, png, self.images_seen),
        )
        self.last_card = card
        if self.curves is not None:
            samples.write(
                self.run,
                self.ema.module,
                self.shard_set,
                self.job,
                self.images_seen,
                self.device,
                self.held_out,
            )
            samples.write_traversals(self.run, self.ema.module, card, self.images_seen, self.device)
            self.run.card.write_text(card.model_dump_json(indent=2))
            self.curves.card(self.images_seen, card)
            self._event("evaluated", headline=headline(card))
            write_report(self.run, self.job)
        self.collective.barrier()
        return card

    def _finish(self) -> Outcome:
        card = self._evaluate(last=True)
        self._settle()
        digest = ""
        if self.curves is not None:
            self.run.bundle.remove()
            digest = write_bundle(
                self.run.bundle,
                model_config=self.job.model,
                spec=self.spec,
                state=self.ema.state_dict(),
                card=card,
                samples_png=samples.latest(self.run),
                name=self.job.name,
                images_seen=self.images_seen,
            )
            self._event("finished", digest=digest)
            write_report(self.run, self.job)
            self.curves.close()
            done = Tick(
                stage="done",
                images_seen=self.images_seen,
                images=self.job.training.images,
                headline=headline(card),
            )
            self.on_tick(done)
        self.collective.barrier()
        return Outcome(
            str(self.run.location), self.images_seen, digest, card.model_dump(mode="json")
        )

    def _event(self, kind: str, **facts: Any) -> None:
        if self.world.is_main:
            self.run.event(kind, self.images_seen, **facts)


def crossed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in `(before, after]`."""
    return after // every > before // every


def train(
    job: TrainJob,
    *,
    world: World = World(),  # noqa: B008 - frozen
    device: torch.device | None = None,
    on_tick: OnTick = lambda _: False,
) -> Outcome:
    """Train one rank of `job`; where `world.size > 1`, torch.distributed must be initialised.

    Args:
        job: What is trained; its run folder must have been prepared.
        world: This rank among its peers.
        device: Where to compute; by default the CPU.
        on_tick: Called on rank 0 with each point of the curves and every few seconds between;
            True asks for a stop.
    """
    device = device or torch.device("cpu")
    suit_process(device)
    return Trainer(job, world, device, on_tick).train()
