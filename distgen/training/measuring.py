"""A run's evaluations: the card, the sheets beside it, and the report that shows them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from distgen.core.world import World
from distgen.data import ShardSet, has_split, open_shard_set
from distgen.metrics.card import Card, evaluate_card
from distgen.metrics.request import EvaluationConfig
from distgen.training import samples
from distgen.training.collective import Collective
from distgen.training.curves import Writer
from distgen.training.job import TrainJob
from distgen.training.outcome import headline
from distgen.training.report import write_report
from distgen.training.run import RunFolder


class Measuring:
    """Evaluates a network of a run against the run's own shard set.

    Args:
        job: The run's.
        run: Its folder.
        shard_set: The pictures that it is measured against.
        world: This rank, which takes its part of the work.
        collective: Its peers.
        device: Where the network is.
    """

    def __init__(
        self,
        job: TrainJob,
        run: RunFolder,
        shard_set: ShardSet,
        world: World,
        collective: Collective,
        device: torch.device,
    ) -> None:
        self._job = job
        self._run = run
        self._shard_set = shard_set
        shards = job.data.shards
        self._held_out = open_shard_set(shards, "test") if has_split(shards, "test") else None
        self._world = world
        self._collective = collective
        self._device = device

    def measure(
        self,
        network: nn.Module,
        images_seen: int,
        config: EvaluationConfig,
        on_progress: Callable[[str], None],
    ) -> Card:
        """The card of a network at this clock, the same on every rank.

        Raises:
            DataError: A picture that it is measured against is damaged.
        """
        return evaluate_card(
            network,
            self._job.model,
            self._shard_set,
            self._held_out,
            config,
            seed=self._job.training.seed,
            world=self._world,
            device=self._device,
            images_seen=images_seen,
            tolerance=self._job.data.tolerance,
            gather=self._collective.gather_rows,
            on_progress=on_progress,
            on_sheet=lambda png: samples.keep_nearest(self._run, png, images_seen),
        )

    def write(self, network: nn.Module, images_seen: int, card: Card, curves: Writer) -> None:
        """Keep a card, and what a person looks at beside it; for one rank."""
        run, job, device = self._run, self._job, self._device
        samples.write(run, network, self._shard_set, job, images_seen, device, self._held_out)
        samples.write_traversals(run, network, card, images_seen, device)
        for place in (run.card, run.card_at(images_seen)):
            place.write_text(card.model_dump_json(indent=2))
        curves.card(images_seen, card)
        run.event("evaluated", images_seen, headline=headline(card), distance=card.headline)
        write_report(run, job)
