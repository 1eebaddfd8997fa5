"""The one training loop: batches in, phases of an objective through, everything else on ticks."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import nn

from distgen.core.part import Part
from distgen.core.schedule import value_at
from distgen.core.seeding import derive
from distgen.core.spans import span
from distgen.core.world import World
from distgen.data import Batch, Stream, open_shard_set
from distgen.data.config import open_data
from distgen.metrics.card import Card
from distgen.models import FAMILIES, build_networks
from distgen.objectives import build_objective
from distgen.objectives.base import Phase, TrainBatch
from distgen.training import curves, gate
from distgen.training.bad_samples import BadSamples
from distgen.training.collective import Collective
from distgen.training.compiling import compile_calls, to_compile
from distgen.training.curves import grade_of
from distgen.training.due import Due
from distgen.training.ema import EMA
from distgen.training.ending import stopped_by_request, write_ending
from distgen.training.inputs import autocast, open_stream, to_device
from distgen.training.job import TrainJob
from distgen.training.keeper import Keeper
from distgen.training.ladder import Settings, Verdict, diverged
from distgen.training.measuring import Measuring
from distgen.training.meters import Meters, Reading, Record
from distgen.training.monitor import Monitor, newest_grades
from distgen.training.optim import build_optimizers, learning_rate_at, set_pace, train_only
from distgen.training.outcome import Outcome, headline
from distgen.training.process import suited
from distgen.training.run import RunFolder, Tick

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
        self.spec = self.shard_set.spec

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(job.training.seed, "initial weights"))
            networks = build_networks(job.model, self.spec)
        # Convolutions are a fifth faster in this layout, on CPU cores as on tensor cores.
        self.networks = {
            name: network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for name, network in networks.items()
        }
        family = FAMILIES[job.model.family]
        self.served = self.networks[family.served]
        self.ema = EMA(self.served, job.training.ema_half_life)
        self.keeper = Keeper(self.run, self.collective, job.training.keep)
        self.settings = Settings.after(len(self.keeper.rollbacks), job.health)
        self.objective = build_objective(
            self.settings.objective(job.objective),
            job.model.family,
            int(self.served.latent_dim),
            getattr(self.served, "latent_groups", ()),
        )
        self.optimizers = build_optimizers(self.objective.phases, self.networks, job.training)
        self.meters = Meters(device)
        self.measuring = Measuring(job, self.run, self.shard_set, world, self.collective, device)
        self.monitor = Monitor(job, self.settings, self.run, self.collective, self.shard_set)
        self.bad_samples = BadSamples(
            self.run, self.collective, job.data.tolerance, self.pictures.num_samples
        )
        self.images_seen = 0
        self.last_card: Card | None = None
        self._ends_early = False
        self._stop_wanted = False
        self._look_at = 0

        self.images_seen = self.keeper.restore(self.parts)
        rows = self.run.metrics() if world.is_main else []
        self.monitor.go_on(newest_grades(rows), self.images_seen, device)
        mode, phases = job.training.compile, self.objective.phases
        names = to_compile(mode, device, phases, unrolled=family.unrolled)
        compile_calls(self.networks, names, self._event)
        # Replicated last: wrapping copies rank 0's restored weights to every rank.
        self.replicas = self.collective.replicate(self.networks)
        if world.size > 1:
            self._event("ranks joined", in_shared_memory=sorted(self.collective.in_shared_memory))
        self.curves = curves.Writer(self.run, self.images_seen) if world.is_main else None

    @property
    def parts(self) -> dict[str, Part]:
        """Everything that must survive a restart, by name."""
        return {
            **{f"network-{name}": network for name, network in self.networks.items()},
            **{f"optimizer-{name}": optimizer for name, optimizer in self.optimizers.items()},
            "ema": self.ema,
            "health": self.monitor,
            **self.objective.parts,
        }

    def train(self) -> Outcome | None:
        """Train to the job's length, then evaluate and write the bundle.

        Returns:
            What the run leaves; None where it was rolled back, and a new trainer has to go on.

        Raises:
            PreemptedError: A stop was asked for; the checkpoint is written.
            TrainingError: The run does not get well, or without `health.enabled` a loss is no
                longer a finite number.
        """
        with closing(self.keeper.open()):
            if self.collective.agree(self._owes_a_card()):
                self._evaluate()
            self._ends_early = self._should_end()
            with self.open_stream() as stream:
                while self.images_seen < self.job.training.images and not self._ends_early:
                    if self.advance(stream):
                        return None
            return self._finish()

    def open_stream(self) -> Stream:
        """The pictures from where this run is."""
        return open_stream(
            self.job, self.pictures, self.world, self.images_seen, self.bad_samples.add
        )

    def advance(self, batches: Iterator[Batch]) -> bool:
        """Wait for a batch, take a step on it, and do what is due; True after a roll-back."""
        with self.meters.waiting(), span("wait for pictures"):
            batch = next(batches)
        before = self.images_seen
        self.step(batch)
        with span("logging"):
            return self._after_step(before)

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
                noise_seed=self.settings.noise_seed(config.seed),
            )
        parts = inputs.split(config.accumulate)
        factor = self.settings.learning_rate_factor
        rate = factor * learning_rate_at(config, self.images_seen)
        # Where the learning rate is as good as zero, standing still is no news.
        after = self.images_seen + config.batch_size
        due = Due.after(self.images_seen, after, config, self.job.health)
        measured = due.look and rate > 0.01 * value_at(config.learning_rate, self.images_seen)
        self.monitor.count(batch.labels_n)
        for phase in self.objective.phases:
            if not self.monitor.pauses(phase.networks):
                self._take_phase(phase, parts, factor, measured=measured)
        self.keeper.release()
        self.objective.after_step(config.batch_size, self.collective.sum_on_device)
        self.images_seen = after
        self.meters.step(config.batch_size)
        with span("average of weights"):
            self.ema.update(config.batch_size, self.images_seen)

    def _take_phase(
        self, phase: Phase, parts: Sequence[TrainBatch], factor: float, *, measured: bool
    ) -> None:
        """One optimiser step, unless its gradients are not finite; of none of the ranks then."""
        optimizer = self.optimizers[phase.name]
        set_pace(optimizer, self.job.training, self.images_seen, factor=factor)
        optimizer.zero_grad(set_to_none=True)
        train_only(self.networks, phase.networks)
        networks = {
            name: (self.replicas if name in phase.networks else self.networks)[name]
            for name in self.networks
        }
        logged: list[dict[str, torch.Tensor]] = []
        for number, part in enumerate(parts, start=1):
            # Gradients of all parts add up, and are synchronised with the last one's.
            trained = [networks[name] for name in phase.networks]
            with self.collective.apart(trained, unsynchronised=number < len(parts)):
                with autocast(self.job.training, self.device), span(f"{phase.name}: forward"):
                    loss, logs = self.objective.loss(phase, networks, part)
                # Exactly one backward: DDP synchronises gradients once per backward, and
                # silently leaves those of a second one unsynchronised.
                with span(f"{phase.name}: backward"):
                    gate.backward(loss / len(parts))
            logged.append(logs)
        with span(f"{phase.name}: optimiser"):
            taken = gate.may_step(optimizer, guarded=self.job.health.enabled)
            if longest := self.job.training.max_gradient_norm:
                norm = gate.shorten(optimizer, longest)
                logged = [{**logs, "gradient_norm": norm} for logs in logged]
            self.keeper.release()
            with self.monitor.striding(phase.networks, self.networks, taken, measured=measured):
                gate.step_if(optimizer, taken)
        with span("logging"):
            record = Record.of(logged, taken)
            self.meters.add(phase.name, record)
            self.monitor.add(phase.name, record)

    def _after_step(self, before: int) -> bool:
        """What is due after a step; True where the run was rolled back, and this trainer ends."""
        seen = self.images_seen
        due = Due.after(before, seen, self.job.training, self.job.health)
        if not (due.point or due.look) and seen < self._look_at:
            return False
        stop = self._look(due.point)
        with self.meters.paused():
            healthy = not self.job.health.enabled
            if due.look:
                verdict = self._examine()
                if verdict.action == "roll back":
                    return True
                healthy = verdict.healthy
            if due.checkpoint or stop:
                # No roll-back may lead to where a run was stopped by chance: it would go another
                # way than the same run that was not stopped.
                self._save(healthy=healthy and due.checkpoint)
            if due.evaluation and not stop:
                self._evaluate()
                stop = bool(self.collective.agree(self._stop_wanted))
                self._ends_early = self._should_end()
                if self.monitor.is_best(seen) or stop or self._ends_early:
                    self._save(healthy=healthy)
            if stop and not due.done:
                self._stopped()
        return False

    def _examine(self) -> Verdict:
        """Look at the run's health, and take the rung of the ladder that this leads to."""
        verdict = self.monitor.look(
            self.images_seen, self.served, self._averaged, self.device, self.curves
        )
        self.keeper.follow(verdict, self.images_seen, self.monitor)
        if verdict.action == "roll back" and self.curves is not None:
            self.curves.close()
        return verdict

    @property
    def _averaged(self) -> dict[str, nn.Module]:
        """All networks that a checkpoint holds."""
        return {**self.networks, "ema": self.ema.module}

    def _should_end(self) -> bool:
        return self.monitor.should_end(self.job.training.early_stop)

    def _look(self, point_due: bool) -> bool:
        """See how the run goes, draw a point of the curves if one is due; True asks for a stop."""
        reading = self.meters.read(self.collective)
        broken = [name for name, value in reading.losses.items() if not math.isfinite(value)]
        if broken and not self.job.health.enabled:
            self._event("diverged", losses=broken)
            raise diverged(str(self.run.location), broken, self.images_seen)
        self.bad_samples.share()
        self.keeper.tell(self.images_seen)
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

    def _save(self, *, healthy: bool) -> None:
        self.keeper.save(
            self.images_seen, self.parts, self._averaged, self.monitor, healthy=healthy
        )

    def _stopped(self) -> None:
        self.keeper.settle()
        self._event("stopped")
        raise stopped_by_request(self.run, self.job, self.images_seen, self.keeper.saved_at)

    def _owes_a_card(self) -> bool:
        """Whether a stop or a fault came between the restored checkpoint and its evaluation."""
        config, seen = self.job.training, self.images_seen
        due = Due.after(max(0, seen - config.batch_size), seen, config, self.job.health)
        return due.evaluation and not any(c.images_seen == seen for c in self.monitor.cards)

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

        network, seen = self.ema.module, self.images_seen
        card = self.measuring.measure(network, seen, config if last else config.between, progress)
        self.last_card = card
        self.monitor.note_card(grade_of(card, seen))
        if self.curves is not None:
            self.measuring.write(network, seen, card, self.curves)
        self.collective.barrier()
        return card

    def _finish(self) -> Outcome:
        card, config = self.last_card, self.job.evaluation
        # A run that ends early has a card of this clock, but maybe not with all that the last has.
        if card is None or card.images_seen != self.images_seen or config != config.between:
            card = self._evaluate(last=True)
        self.keeper.settle()
        digest = ""
        if self.curves is not None:
            digest, card = write_ending(
                self.run, self.job, self.spec, self.ema, self.keeper, card, self.monitor.best
            )
            self.curves.close()
            done = Tick(
                stage="stopped early" if self._ends_early else "done",
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
    with suited(device):
        while True:
            outcome = Trainer(job, world, device, on_tick).train()
            if outcome is not None:
                return outcome
            # A trainer's replicas refer to one another, and the next one needs the memory.
            gc.collect()
