"""distgen's pictures and bounds beside those of other packages, on the same images and budget.

Peers live in an environment of their own:

    python3 -m venv /tmp/qpeers/venv
    /tmp/qpeers/venv/bin/pip install torch==2.13.0 "numpy<2.4" tensorboardX tensorboard pillow \
        scikit-learn scipy tqdm pydantic PyYAML cloudpickle imageio typing_extensions matplotlib
    /tmp/qpeers/venv/bin/pip install --no-deps torchgan==0.1.0 torch-mimicry==0.1.16 pythae==0.1.2

    distgen data build fashion-mnist shards/fashion-mnist
    python tests/bench/quality_peers.py train torchgan mimicry --seeds 0 1 2
    python tests/bench/quality_peers.py train pythae pythae-conv
    python tests/bench/quality_peers.py score runs/fashion-gan     # cards of all, beside a run's
    python tests/bench/quality_peers.py speed                      # images/s, the same networks
    python tests/bench/quality_peers.py --smoke train torchgan mimicry pythae pythae-conv   # quick

- torchgan's DCGAN and torch-mimicry's SNGAN see as many real pictures as the run that they are
  compared with (300,000), padded to the 32 pixels that they are made for and cropped back; SNGAN
  counts each of its five discriminator steps' batches. pythae's VAE, with the package's default
  networks, sees those of jobs/fashion-vae.yaml, its pixels drawn anew at each look as ours are.
  With the package's convolutional networks for MNIST, each picture of which costs ten times as
  much, it has about the time of that job instead of its pictures.
- All are scored by distgen's quality card: the same reference pictures, extractors, rounding to 8
  bits and number of samples; pythae's decoder and encoder are weighed by the same importance
  samples on the same binarised test pictures.
- WIDTHS says at which width a peer runs, and why not at its default.

One process at a time. What is finished stays in --work, and a command that is given again goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distgen.bench.train import distgen_speed
from distgen.core.config import parse
from distgen.core.storage import locate
from distgen.data import has_split, open_shard_set, read_samples
from distgen.metrics.card import Card, evaluate_card
from distgen.metrics.generated import latents_for
from distgen.metrics.request import EvaluationConfig
from distgen.models.base import LatentNoise, LatentTerms
from distgen.models.gan import GANConfig
from distgen.models.likelihoods import binarise
from distgen.models.vae import VAEConfig
from distgen.training.job import TrainJob
from distgen.training.run import RunFolder

SIDE = Path(__file__).with_name("quality_peers_side.py")
OURS = "distgen"
PEERS = ("torchgan", "mimicry", "pythae", "pythae-conv")
IMAGES = {"torchgan": 300_000, "mimicry": 300_000, "pythae": 2_000_000, "pythae-conv": 180_000}
WIDTHS = {"torchgan": 64, "mimicry": 64, "pythae": 40, "pythae-conv": 40}
WIDTH_REASONS = {
    "torchgan": "the default",
    "mimicry": "a quarter of the default, whose 300,000 pictures would take a night on two cores",
    "pythae": "latent dimensions, those of jobs/fashion-vae.yaml; the networks are the package's",
    "pythae-conv": "likewise",
}
SMOKE_PICTURES = 640
SPEED_IMAGES = {"gan": 12_800, "vae": 96_000}
"""Of distgen's speed. Its first epoch decodes pictures that peers hold in memory when their clock
starts; a VAE is through with it after a minute."""


class Replay(nn.Module):
    """Stored pictures in the place of a generator: latents name them."""

    latent_dim = 2
    num_classes = 0

    def __init__(self, pictures_nhwc: np.ndarray, seed: int) -> None:
        super().__init__()
        self._pictures = pictures_nhwc
        numbers = latents_for(seed, range(len(pictures_nhwc)), self.latent_dim)
        self._places = {row.numpy().tobytes(): place for place, row in enumerate(numbers)}

    def sample(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """The pictures that were stored under these latents' numbers."""
        places = [self._places[row.numpy().tobytes()] for row in latents_nd]
        chosen = torch.from_numpy(self._pictures[places])
        return chosen.permute(0, 3, 1, 2).float() / 127.5 - 1.0


class PeerVAE(nn.Module):
    """pythae's encoder and decoder as a `LatentVariableModel` with a Bernoulli likelihood."""

    num_classes = 0

    def __init__(self, folder: Path, latent_dim: int) -> None:
        super().__init__()
        # Not modules of this one, since they take no hooks, which memory is estimated by.
        self._scripted = tuple(
            torch.jit.load(str(folder / f"{part}.pt")) for part in ("encoder", "decoder")
        )
        self.decoded = nn.Identity()
        self.latent_dim = latent_dim
        self.latent_groups = (latent_dim,)

    def observe(self, images_nchw: Tensor, uniforms_nchw: Tensor) -> Tensor:
        """Pixels that are on or off, as distgen's own Bernoulli likelihood draws them."""
        return binarise(images_nchw, uniforms_nchw)

    def encode(self, observed_nchw: Tensor) -> tuple[Tensor, ...]:
        """Means and logarithms of variances."""
        mean_nd, log_variance_nd = self._scripted[0](observed_nchw)
        return mean_nd, log_variance_nd

    def terms(
        self, observed_nchw: Tensor, encoding: tuple[Tensor, ...], normals_nd: Tensor
    ) -> LatentTerms:
        """The terms of the bound with one posterior sample each."""
        mean_nd, log_variance_nd = encoding
        latents_nd = mean_nd + (0.5 * log_variance_nd).exp() * normals_nd
        chances = self.decoded(self._scripted[1](latents_nd))
        surprise = F.binary_cross_entropy(chances, observed_nchw, reduction="none")
        two_pi = torch.log(torch.tensor(2.0 * torch.pi))
        posterior_nd = -0.5 * (normals_nd.square() + log_variance_nd + two_pi)
        kl_nd = 0.5 * (mean_nd.square() + log_variance_nd.exp() - 1.0 - log_variance_nd)
        return LatentTerms(
            log_likelihood_n=-surprise.flatten(1).sum(1),
            log_prior_n=(-0.5 * (latents_nd.square() + two_pi)).sum(1),
            log_posterior_n=posterior_nd.sum(1),
            kl_nd=kl_nd,
        )

    def forward(self, images_nchw: Tensor, noise: LatentNoise) -> LatentTerms:
        """The terms for pictures in [-1, 1]."""
        observed = self.observe(images_nchw, noise.uniforms_nchw)
        return self.terms(observed, self.encode(observed), noise.normals_nd)

    def sample(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """The expected pictures in [-1, 1]."""
        return self._scripted[1](latents_nd) * 2.0 - 1.0

    def reconstruct(self, images_nchw: Tensor, labels_n: Tensor | None = None) -> Tensor:
        """Pictures decoded from the posterior's mean."""
        observed = self.observe(images_nchw, torch.full_like(images_nchw, 0.5))
        return self.sample(self.encode(observed)[0])


def export(options: argparse.Namespace) -> Path:
    """The training pictures where peers find them."""
    place = options.work / ("smoke.npz" if options.smoke else "train.npz")
    if not place.exists():
        shard_set = open_shard_set(options.shards, "train")
        count = SMOKE_PICTURES if options.smoke else shard_set.num_samples
        images_nhwc, _ = read_samples(shard_set, np.arange(count))
        place.parent.mkdir(parents=True, exist_ok=True)
        np.savez(place, images_nhwc=images_nhwc)
    return place


def side(options: argparse.Namespace, what: str, peer: str, out: Path, *more: str) -> Path:
    """Run the other side once; the JSON that it leaves, made before or now."""
    result = out / f"{what}.json"
    if not result.exists():
        out.mkdir(parents=True, exist_ok=True)
        command = [options.peers_python, str(SIDE), what, peer, "--data", str(export(options)),
                   "--out", str(out), *more]  # fmt: skip
        print(f"{what} {peer} in {out}", flush=True)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(options.threads),
            "PYTHONPATH": str(SIDE.parents[2]),
        }
        with (out / f"{what}.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
    return result


def folder_of(options: argparse.Namespace, peer: str, seed: int) -> Path:
    return Path(options.work) / ("smoke" if options.smoke else "runs") / f"{peer}-{seed}"


def train(options: argparse.Namespace) -> None:
    """Train the peers that were named, one seed after the other."""
    for peer in options.peers:
        for seed in options.seeds:
            images = SMOKE_PICTURES if options.smoke else IMAGES[peer]
            width = 8 if options.smoke else WIDTHS[peer]
            place = side(
                options, "train", peer, folder_of(options, peer, seed),
                "--images", str(images), "--seed", str(seed), "--width", str(width),
                "--threads", str(options.threads),
            )  # fmt: skip
            facts = json.loads(place.read_text())
            print(f"{peer} seed {seed}: {facts['images']:,} pictures in {facts['seconds']:,.0f} s")


def card_of(options: argparse.Namespace, peer: str, seed: int) -> Card:
    """The quality card of a trained peer, measured once."""
    folder = folder_of(options, peer, seed)
    place = folder / "card.json"
    if not place.exists():
        train_set = open_shard_set(options.shards, "train")
        held_out = (
            open_shard_set(options.shards, "test") if has_split(options.shards, "test") else None
        )
        facts = json.loads((folder / "train.json").read_text())
        model: nn.Module
        if peer.startswith("pythae"):
            model, config = PeerVAE(folder, facts["latent"]), VAEConfig()
        else:
            model, config = Replay(np.load(folder / "pictures.npy"), seed), GANConfig()
        evaluation = EvaluationConfig(
            samples=200 if options.smoke else options.samples,
            extractors=("pixel-pca64",) if options.smoke else ("efficientnet-lite0", "pixel-pca64"),
            importance_samples=4 if options.smoke else options.importance_samples,
            likelihood_images=16 if options.smoke else 1_000,
        )
        card = evaluate_card(
            model, config, train_set, held_out, evaluation, seed=seed, images_seen=facts["images"]
        )
        place.write_text(card.model_dump_json(indent=2))
    return Card.model_validate_json(place.read_text())


def score(options: argparse.Namespace) -> None:
    """Cards of all trained peers, and of distgen's runs, in one table."""
    rows: dict[str, list[dict[str, float]]] = {}
    for peer in PEERS:
        for seed in options.seeds:
            if (folder_of(options, peer, seed) / "train.json").exists():
                rows.setdefault(peer, []).append(card_of(options, peer, seed).figures())
    for run in options.peers:
        card = Card.model_validate(RunFolder(locate(run)).card.read_json())
        rows.setdefault(f"distgen {Path(run).name.rstrip('-0123456789')}", []).append(
            card.figures()
        )
    means = {name: mean_of(figures) for name, figures in rows.items()}
    result = {"cards": rows, "means": means, "widths": WIDTHS, "reasons": WIDTH_REASONS}
    (options.work / "scores.json").write_text(json.dumps(result, indent=2))
    names = sorted({name for figures in means.values() for name in figures})
    print(f"{'':44}" + "".join(f"{name:>22}" for name in means))
    for name in names:
        values = [means[peer].get(name) for peer in means]
        cells = (f"{'-':>22}" if value is None else f"{value:22.4f}" for value in values)
        print(f"{name:44}" + "".join(cells))


def mean_of(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(each[name] for each in figures) for name in figures[0]}


def speed(options: argparse.Namespace) -> None:
    """images/s of distgen over the fastest peer's, by turns and on the same cores.

    Peers are one process with a thread for each core; distgen is that, and a worker for each core.
    All train the same networks with the same loss, batch and optimiser: distgen's own networks run
    inside the peers' loops. `own` is a peer's own network at its own settings.
    """
    batch, rounds = 64, 1 if options.smoke else 3
    seconds = 2.0 if options.smoke else options.seconds
    width = 8 if options.smoke else 64
    gan = {"family": "gan", "latent_dim": 64, "width": width}
    vae = {"family": "vae", "latent_dim": 40, "width": width}
    plain = {"kind": "non-saturating", "r1": 0.0, "r2": 0.0}
    found: dict[str, dict[str, list[float]]] = {"gan": {}, "vae": {}}
    for number in range(rounds):
        for family, model, peers in (("gan", gan, PEERS[:2]), ("vae", vae, PEERS[2:])):
            raw = {
                "name": "speed",
                "data": {"shards": options.shards},
                "model": model,
                # Health is looked at as seldom as in a run of this length.
                "training": {"images": 300_000, "batch_size": batch},
                **({"objective": plain} if family == "gan" else {}),
            }
            for workers in {options.threads, 1}:
                place = options.work / "speed" / f"{family}-{workers}-{number}.json"
                if not place.exists():
                    raw["scaling"] = {"cpus_per_worker": options.threads // workers}
                    job = parse(TrainJob, raw, "the speed benchmark's job")
                    images = 640 if options.smoke else SPEED_IMAGES[family]
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_text(json.dumps(distgen_speed(job, workers, images)))
                name = f"{OURS}, workers: {workers}"
                found[family].setdefault(name, []).append(json.loads(place.read_text()))
            for peer in peers:
                # distgen's network in pythae's loop is the same twice.
                for kind in ("own",) if peer == "pythae-conv" else ("same", "own"):
                    out = options.work / "speed" / f"{peer}-{kind}-{number}"
                    same = ["--network", json.dumps(model)] if kind == "same" else []
                    facts = json.loads(side(
                        options, "speed", peer, out, "--seconds", str(seconds), *same,
                        "--width", str(8 if options.smoke else WIDTHS[peer]),
                    ).read_text())  # fmt: skip
                    found[family].setdefault(f"{peer}, {kind}", []).append(facts["images_per_s"])
    medians = {f: {n: statistics.median(v) for n, v in each.items()} for f, each in found.items()}
    ratios = {
        family: max(v for n, v in each.items() if n.startswith(OURS))
        / max(v for n, v in each.items() if n.endswith("same"))
        for family, each in medians.items()
    }
    result = {"ratio": min(ratios.values()), "ratios": ratios, "medians": medians, "runs": found}
    print(json.dumps(result, indent=2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "score", "speed"))
    parser.add_argument(
        "peers", nargs="*", help="peers to train, or distgen's runs to score beside"
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--shards", default="shards/fashion-mnist")
    parser.add_argument("--work", type=Path, default=Path("/tmp/qpeers/work"))
    parser.add_argument("--peers-python", default="/tmp/qpeers/venv/bin/python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each speed measurement")
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--importance-samples", type=int, default=500)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of hours")
    options = parser.parse_args()
    {"train": train, "score": score, "speed": speed}[options.what](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
