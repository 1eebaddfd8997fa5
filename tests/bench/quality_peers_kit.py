"""What every peer's training needs: pictures, a watch, patches, distgen's networks."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

PICTURES = 10_000
BATCH = 64
PATCHES: list[str] = []
"""What was changed in the packages of this process, and why."""


class OutOfTimeError(Exception):
    """Ends a peer's loop from inside its loader."""


class Watch:
    """Counts pictures from the end of a warm-up on, and ends the loop after some seconds."""

    def __init__(self, seconds: float, warmup: int) -> None:
        self._seconds = seconds
        self._warmup = warmup
        self._images = 0
        self._started = 0.0
        self.images_per_s = 0.0

    def look(self) -> None:
        """Raises OutOfTimeError where the time is over."""
        now = time.perf_counter()
        if not self._started and self._images >= self._warmup:
            self._started, self._images = now, 0
        if self._started and now - self._started >= self._seconds:
            self.images_per_s = self._images / (now - self._started)
            raise OutOfTimeError

    def count(self, images: int) -> None:
        self._images += images


class Timed:
    """A loader with a watch."""

    def __init__(self, loader: DataLoader[Any], watch: Watch) -> None:
        self._loader = loader
        self._watch = watch
        self.batch_size = loader.batch_size

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            self._watch.look()
            yield batch
            self._watch.count(len(batch[0]))


def refuse(*_: Any, **__: Any) -> Any:
    """What stands for all functions of a package that is not here."""
    raise RuntimeError("this part of the package is not here")


def missing(member: str) -> Any:
    """Whatever is asked of a stub by name."""
    if member.startswith("__"):  # what Python itself asks of modules
        raise AttributeError(member)
    return refuse


def stub(name: str, **members: Any) -> types.ModuleType:
    """A module of this name that has these members, and refuses to do anything else."""
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    made.__getattr__ = missing  # type: ignore[method-assign]
    for key, value in members.items():
        setattr(made, key, value)
    sys.modules[name] = made
    return made


def stub_torchvision() -> None:
    """torchvision has no build beside the CPU build of torch; all that is asked for is sheets."""

    def make_grid(images: Tensor, *_: Any, **__: Any) -> Tensor:
        return torch.cat(list(images.detach()), dim=2)

    def save_image(*_: Any, **__: Any) -> None:
        return None

    names = ("models", "transforms", "datasets", "utils")
    parts = {name: stub(f"torchvision.{name}") for name in names}
    parts["utils"].make_grid, parts["utils"].save_image = make_grid, save_image
    stub("torchvision", __version__="0.0", **parts).__path__ = []
    stub("torchvision.transforms.functional")
    PATCHES.append("torchvision is a stub: sheets of samples during training are not written")


def bare_package(name: str) -> None:
    """Import parts of a package without its top level, which wants what is not needed here."""
    spec = importlib.util.find_spec(name)
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations or [])
    package.__spec__ = spec
    sys.modules[name] = package
    PATCHES.append(f"{name}/__init__ is passed over: its metrics want TensorFlow")


class Ours:
    """distgen's own networks for 28x28 grey pictures, to run in a peer's loop."""

    def __init__(self, model: dict[str, Any]) -> None:
        from distgen.core.spec import ImageSpec
        from distgen.models import FAMILIES, build_networks

        config = FAMILIES[model["family"]].config(**model)
        self.networks = build_networks(config, ImageSpec(height=28, width=28, mode="L"))
        self.latent_dim = int(model["latent_dim"])

    @property
    def generator(self) -> nn.Module:
        return self.networks["generator"]

    @property
    def discriminator(self) -> nn.Module:
        return self.networks["discriminator"]


def as_theirs(
    base: type, network: nn.Module, description: dict[str, Any], **arguments: Any
) -> None:
    """Put a class that peers take for one of theirs into a description of networks."""

    class Wrapped(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(**arguments)
            self.network = network

        def forward(self, inputs: Tensor) -> Tensor:
            return self.network(inputs)

    description |= {"name": Wrapped, "args": {}}


def scaled(pictures_nhwc: np.ndarray) -> Tensor:
    """[n, 1, 28, 28] in [-1, 1]."""
    return torch.from_numpy(pictures_nhwc).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def padded(pictures_nhwc: np.ndarray) -> Tensor:
    """[n, 1, 32, 32] in [-1, 1]: 28 pixels and a black border, for networks that want 32."""
    images = scaled(pictures_nhwc)
    rim = (32 - images.shape[-1]) // 2
    return nn.functional.pad(images, (rim, rim, rim, rim), value=-1.0)


def cropped(images_nchw: Tensor) -> np.ndarray:
    """The inverse of `padded`, as uint8 [n, 28, 28, 1]."""
    inner = images_nchw[:, :, 2:-2, 2:-2].clamp(-1.0, 1.0)
    return ((inner + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def loader_of(images: Tensor) -> DataLoader[Any]:
    labels = torch.zeros(len(images), dtype=torch.int64)
    return DataLoader(TensorDataset(images, labels), BATCH, shuffle=True, drop_last=True)


def parameters(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


@torch.no_grad()
def sampled(make: Any) -> np.ndarray:
    return np.concatenate([cropped(make(100)) for _ in range(PICTURES // 100)])
