"""A card that real processes measure together over gloo is the card of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from distgen.core.world import World
from distgen.data import open_shard_set
from distgen.metrics import modes
from distgen.metrics.card import Card, evaluate_card
from distgen.metrics.request import EvaluationConfig
from distgen.models import GANConfig, build_networks
from distgen.training.collective import Collective

CONFIG = EvaluationConfig.model_validate(
    {
        "samples": 300,
        "extractors": ["pixel-pca64"],
        "modes": {"samples": 70},
        "memorisation": {},
        "classification": {"samples": 130, "images": 256},
    }
)
MODEL = GANConfig(latent_dim=8, width=8, conditional=True)


def card_of(ranks: Collective, digits: str) -> Card:
    torch.set_num_threads(1)
    modes.LESSON_IMAGES = 256
    data, held_out = open_shard_set(digits, "train"), open_shard_set(digits, "test")
    torch.manual_seed(0)
    model = build_networks(MODEL, data.spec)["generator"].eval()
    return evaluate_card(
        model, MODEL, data, held_out, CONFIG, world=ranks.world, gather=ranks.gather_rows
    )


def run_rank(rank: int, size: int, folder: str, digits: str) -> None:
    os.environ["XDG_CACHE_HOME"] = f"{folder}/cache-{rank}"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size
    )
    card = card_of(Collective(World(rank, size)), digits)
    (Path(folder) / f"card-{rank}.json").write_text(card.model_dump_json())
    dist.destroy_process_group()


@pytest.fixture
def cards(tmp_path: Path, digits: str) -> list[Card]:
    """What each of two processes gets."""
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), "2", str(tmp_path), digits])
        for rank in range(2)
    ]
    assert [process.wait() for process in ranks] == [0, 0]
    texts = [(tmp_path / f"card-{rank}.json").read_text() for rank in range(2)]
    return [Card.model_validate_json(text) for text in texts]


def test_two_processes_measure_what_one_measures(cards, digits, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "alone"))
    monkeypatch.setattr(modes, "LESSON_IMAGES", 256)
    alone = card_of(Collective(World()), digits)
    assert cards[0] == cards[1]
    expected, found = numbers(alone), numbers(cards[0])
    assert expected.keys() == found.keys()
    assert {"modes", "copies", "classification_ceiling"} < expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def numbers(card: Card) -> dict[str, float]:
    """All figures of a card but its time."""
    flat: dict[str, float] = {}

    def walk(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}/{key}" if name else key, inner)
        elif isinstance(value, list):
            for key, inner in enumerate(value):
                walk(f"{name}/{key}", inner)
        elif isinstance(value, int | float):
            flat[name] = float(value)

    walk("", json.loads(card.model_dump_json(exclude={"seconds"})))
    return {**flat, **card.figures()}


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
