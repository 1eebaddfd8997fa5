"""One training of a peer, in the peers' environment: see quality_peers.py, which starts it.

    python quality_peers_side.py train PEER --data train.npz --out FOLDER --images N --seed S
    python quality_peers_side.py speed PEER --data train.npz --out FOLDER --seconds 60

What the packages need to run beside today's torch is patched here at run time, each with its
reason, and named in the result (`patches`). Their own networks, losses, optimisers and loops are
used as their examples use them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality_peers_kit import (
    BATCH,
    PATCHES,
    Ours,
    OutOfTimeError,
    Timed,
    Watch,
    as_theirs,
    bare_package,
    loader_of,
    padded,
    parameters,
    sampled,
    scaled,
    stub,
    stub_torchvision,
)
from torch import Tensor, nn
from torch.utils.data import Dataset

PACKAGES = {
    "torchgan": "torchgan",
    "mimicry": "torch-mimicry",
    "pythae": "pythae",
    "pythae-conv": "pythae",
}
DISCRIMINATOR_STEPS = 5


class TorchGAN:
    """DCGAN with the minimax losses, as in the package's tutorial, at its default width."""

    def __init__(self, images_nhwc: np.ndarray, width: int, out: Path, ours: Ours | None) -> None:
        stub_torchvision()
        os.environ |= {"TENSORBOARD_LOGGING": "0", "VISDOM_LOGGING": "0"}
        from torchgan import models
        from torchgan.losses import MinimaxDiscriminatorLoss, MinimaxGeneratorLoss
        from torchgan.trainer import Trainer

        self.width = width or 64
        self.loader: Any = loader_of(scaled(images_nhwc) if ours else padded(images_nhwc))
        adam = {"lr": 2e-4, "betas": (0.5, 0.999)}
        shared = {"step_channels": self.width, "nonlinearity": nn.LeakyReLU(0.2)}
        description = {
            "generator": {
                "name": models.DCGANGenerator,
                "args": {"encoding_dims": 100, "out_channels": 1, "out_size": 32, **shared},
                "optimizer": {"name": torch.optim.Adam, "args": adam},
            },
            "discriminator": {
                "name": models.DCGANDiscriminator,
                "args": {"in_channels": 1, "in_size": 32, **shared},
                "optimizer": {"name": torch.optim.Adam, "args": adam},
            },
        }
        if ours:
            as_theirs(
                models.Generator,
                ours.generator,
                description["generator"],
                encoding_dims=ours.latent_dim,
            )
            as_theirs(
                models.Discriminator, ours.discriminator, description["discriminator"], input_dims=1
            )
        self.trainer = Trainer(
            description,
            [MinimaxGeneratorLoss(), MinimaxDiscriminatorLoss()],
            device=torch.device("cpu"),
            sample_size=8,
            checkpoints=str(out / "model" / "gan"),
            recon=str(out / "images"),
            log_dir=str(out / "logs"),
        )
        # Half-way checkpoints pickle the losses; they are of no use here.
        self.trainer.save_model = lambda *_: None
        PATCHES.append("torchgan saves no checkpoint after each epoch")
        self.networks = (self.trainer.generator, self.trainer.discriminator)
        self.about = {"latent": 100, "discriminator_steps": 1, "learning_rate": 2e-4}

    def train(self, images: int) -> None:
        self.trainer.epochs = max(1, math.ceil(images / (len(self.loader) * BATCH)))
        self.trainer(self.loader)

    def finish(self, out: Path) -> None:
        generator = self.trainer.generator.eval()
        np.save(out / "pictures.npy", sampled(lambda n: generator(torch.randn(n, 100))))


class Mimicry:
    """SNGAN for 32 pixels with the hinge loss, five discriminator steps and linear decay."""

    def __init__(self, images_nhwc: np.ndarray, width: int, out: Path, ours: Ours | None) -> None:
        stub_torchvision()
        bare_package("torch_mimicry")
        stub("skimage", io=None)  # asked for by a helper that reads files of pictures
        from torch_mimicry.modules.resblocks import DBlockOptimized
        from torch_mimicry.nets.sngan import sngan_32
        from torch_mimicry.training.trainer import Trainer

        self.width = width or 256
        self.loader: Any = loader_of(scaled(images_nhwc) if ours else padded(images_nhwc))
        self.out = out
        self._trainer = Trainer
        self._steps = 1 if ours else DISCRIMINATOR_STEPS
        generator = sngan_32.SNGANGenerator32(ngf=self.width)
        discriminator = sngan_32.SNGANDiscriminator32(ndf=self.width // 2)
        generator.c5 = nn.Conv2d(self.width, 1, 3, 1, padding=1)
        nn.init.xavier_uniform_(generator.c5.weight.data, 1.0)
        discriminator.block1 = DBlockOptimized(1, self.width // 2)
        PATCHES.append("SNGAN's first and last layer have one channel, for grey pictures")
        if ours:
            from torch_mimicry.nets.gan.gan import BaseDiscriminator, BaseGenerator

            made: dict[str, Any] = {}
            sizes = {"nz": ours.latent_dim, "ngf": 1, "bottom_width": 4, "loss_type": "ns"}
            as_theirs(BaseGenerator, ours.generator, made, **sizes)
            generator = made["name"]()
            scores = nn.Sequential(ours.discriminator, nn.Unflatten(0, (-1, 1)))
            as_theirs(BaseDiscriminator, scores, made, ndf=1, loss_type="ns")
            discriminator = made["name"]()
        self.networks = (generator, discriminator)
        self.about = {
            "latent": 128,
            "discriminator_steps": self._steps,
            "learning_rate": 2e-4,
        }

    def train(self, images: int) -> None:
        generator, discriminator = self.networks
        adam = {"lr": 2e-4, "betas": (0.0, 0.9)}
        trainer = self._trainer(
            netD=discriminator,
            netG=generator,
            optD=torch.optim.Adam(discriminator.parameters(), **adam),
            optG=torch.optim.Adam(generator.parameters(), **adam),
            n_dis=self._steps,
            # Each discriminator step sees a batch of its own.
            num_steps=max(1, math.ceil(images / (BATCH * self._steps))),
            lr_decay="linear",
            dataloader=self.loader,
            log_dir=str(self.out / "log"),
            device=torch.device("cpu"),
            print_steps=50,
            vis_steps=10**9,
            save_steps=50,  # the newest of which it goes on from by itself
        )
        trainer.train()

    def finish(self, out: Path) -> None:
        generator = self.networks[0].eval()
        np.save(out / "pictures.npy", sampled(lambda n: generator(torch.randn(n, 128))))


class Binarised(Dataset[Any]):
    """Pixels drawn anew at each look, with the grey level as the chance of a one."""

    def __init__(self, images_nhwc: np.ndarray) -> None:
        from pythae.data.datasets import DatasetOutput

        self._made = DatasetOutput
        self._greys = torch.from_numpy(images_nhwc).permute(0, 3, 1, 2).float() / 255.0

    def __len__(self) -> int:
        return len(self._greys)

    def __getitem__(self, index: int) -> Any:
        return self._made(data=torch.bernoulli(self._greys[index]), labels=torch.tensor(0))


class TimedSet(Binarised):
    """The same with a watch: pythae makes its loader itself."""

    def __init__(self, images_nhwc: np.ndarray, watch: Watch) -> None:
        super().__init__(images_nhwc)
        self._watch = watch
        self._taken = 0

    def __getitem__(self, index: int) -> Any:
        if self._taken % BATCH == 0:
            self._watch.look()
        self._taken += 1
        self._watch.count(1)
        return super().__getitem__(index)


class Pythae:
    """VAE with the package's default networks, dense ones, and a Bernoulli likelihood."""

    convolutional = False

    def __init__(self, images_nhwc: np.ndarray, width: int, out: Path, ours: Ours | None) -> None:
        from pythae.models import VAE, VAEConfig
        from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST

        self.width = width or 40
        self.dataset: Any = Binarised(images_nhwc)
        self.out = out
        config = VAEConfig(input_dim=(1, 28, 28), latent_dim=self.width, reconstruction_loss="bce")
        encoder, decoder = None, None
        if self.convolutional:
            encoder, decoder = Encoder_Conv_VAE_MNIST(config), Decoder_Conv_AE_MNIST(config)
        if ours:
            encoder, decoder = self._wrapped(ours)
        self.model = VAE(config, encoder, decoder)
        self.networks = (self.model,)
        self.about = {"latent": self.width, "learning_rate": 1e-3}

    def _wrapped(self, ours: Ours) -> tuple[Any, Any]:
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder

        class Encoder(BaseEncoder):
            def __init__(self) -> None:
                BaseEncoder.__init__(self)
                self.network = ours.networks["model"].encoder

            def forward(self, observed: Tensor) -> Any:
                mean, raw = self.network(observed).chunk(2, dim=1)
                return ModelOutput(embedding=mean, log_covariance=raw)

        class Decoder(BaseDecoder):
            def __init__(self) -> None:
                BaseDecoder.__init__(self)
                self.network = ours.networks["model"].decoder

            def forward(self, latents: Tensor) -> Any:
                return ModelOutput(reconstruction=torch.sigmoid(self.network(latents)))

        return Encoder(), Decoder()

    def train(self, images: int) -> None:
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        config = BaseTrainerConfig(
            output_dir=str(self.out / "pythae"),
            num_epochs=max(1, math.ceil(images / len(self.dataset))),
            learning_rate=1e-3,
            per_device_train_batch_size=BATCH,
            no_cuda=True,
        )
        BaseTrainer(model=self.model, train_dataset=self.dataset, training_config=config).train()

    def finish(self, out: Path) -> None:
        """The two networks as TorchScript, which runs where pythae is not installed."""

        class Encoder(nn.Module):
            def __init__(self, encoder: nn.Module) -> None:
                super().__init__()
                self.encoder = encoder

            def forward(self, observed: Tensor) -> tuple[Tensor, Tensor]:
                found = self.encoder(observed)
                return found["embedding"], found["log_covariance"]

        class Decoder(nn.Module):
            def __init__(self, decoder: nn.Module) -> None:
                super().__init__()
                self.decoder = decoder

            def forward(self, latents: Tensor) -> Tensor:
                return self.decoder(latents)["reconstruction"]

        model = self.model.eval()
        with torch.no_grad():
            encoder = torch.jit.trace(Encoder(model.encoder), torch.zeros(3, 1, 28, 28))
            decoder = torch.jit.trace(Decoder(model.decoder), torch.zeros(3, self.width))
        encoder.save(str(out / "encoder.pt"))
        decoder.save(str(out / "decoder.pt"))


class ConvolutionalPythae(Pythae):
    """The same with the package's convolutional networks for MNIST, 17 million parameters."""

    convolutional = True


PEERS = {
    "torchgan": TorchGAN,
    "mimicry": Mimicry,
    "pythae": Pythae,
    "pythae-conv": ConvolutionalPythae,
}


def measure_speed(peer: Any, images_nhwc: np.ndarray, seconds: float) -> float:
    """images/s of the peer's own loop."""
    watch = Watch(seconds, warmup=10 * BATCH)
    if isinstance(peer, Pythae):
        peer.dataset = TimedSet(images_nhwc, watch)
    else:
        peer.loader = Timed(peer.loader, watch)
    with contextlib.suppress(OutOfTimeError):
        peer.train(10**12)
    return watch.images_per_s


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("train", "speed"))
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=0, help="0: the package's default")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", type=json.loads, help="distgen's `model`, in a peer's loop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    images_nhwc = np.load(options.data)["images_nhwc"]
    ours = Ours(options.network) if options.network else None
    peer = PEERS[options.peer](images_nhwc, options.width, options.out, ours)
    facts = {
        "peer": options.peer,
        "version": importlib.metadata.version(PACKAGES[options.peer]),
        "torch": torch.__version__,
        "width": peer.width,
        "parameters": parameters(*peer.networks),
        "batch_size": BATCH,
        "threads": options.threads,
        **peer.about,
    }
    if options.what == "speed":
        facts["images_per_s"] = measure_speed(peer, images_nhwc, options.seconds)
    else:
        started = time.perf_counter()
        peer.train(options.images)
        facts |= {
            "images": options.images,
            "seed": options.seed,
            "seconds": time.perf_counter() - started,
        }
        peer.finish(options.out)
    facts["patches"] = PATCHES
    (options.out / f"{options.what}.json").write_text(json.dumps(facts, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
