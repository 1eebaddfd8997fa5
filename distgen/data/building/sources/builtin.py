"""Sets that have a name: `digits`, always at hand, `fashion-mnist`, and what is made of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx
import numpy as np

from distgen.core.errors import DataError, DistgenError
from distgen.core.spec import Mode
from distgen.core.storage import locate, sha256_of
from distgen.data.building.sources.idx import IdxSource, read_idx, read_maybe_gzipped
from distgen.data.building.sources.item import Item, Source, sort_items
from distgen.data.building.sources.moving import MovingSource, check_frozen, moving_source
from distgen.data.building.sources.stacked import StackedDigitsSource

FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
"""The public bucket of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017); it has no TLS."""
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts it."""
FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
# Digests of the inflated files: the bucket's and Debian's archives differ in their gzip headers.
FASHION_SHA256: Final[Mapping[str, str]] = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
MOVING = "moving-fashion-mnist"
MOVING_TEST_SHA256: Final = "a38726861fefd1ea3e527ee03ebac5de32a77e7f6294491b4f7bc5f99e0df227"
"""SHA-256 of the pixels of the test clips that are made by default, one after the other."""
_TIMEOUT_S = 30.0


class DigitsSource:
    """scikit-learn's 1,797 scans of handwritten digits (Alpaydin and Kaynak 1998).

    8x8 pixels of 0 to 16 become uint8 by x * 255 / 16, rounded, and are enlarged (bicubic) to 16x16
    unless another size is asked for. About 15 % become the split `test`, chosen by hash.
    """

    name = "digits"
    classes = tuple("0123456789")
    splits: tuple[str, ...] = ()
    default_split = 0.15
    default_size: tuple[int, int] | None = (16, 16)
    default_mode: Mode | None = "L"

    def items(self, _split: str | None, /) -> Sequence[Item]:
        """All digits: it is the builder who makes the splits."""
        from sklearn.datasets import load_digits  # a second of imports that no other source needs

        digits = load_digits()
        pictures = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        return sort_items(
            [
                Item(f"digit-{row:04d}", f"digits[{row}]", int(label), pictures[row])
                for row, label in enumerate(digits.target)
            ]
        )


def fashion_mnist(
    folder: Path = FASHION_FOLDER,
    cache: Path | None = None,
    url: str = FASHION_URL,
    digests: Mapping[str, str] = FASHION_SHA256,
) -> Source:
    """Fashion-MNIST from the system's package, else from the cache, else from the network.

    Args:
        folder: Where the package puts it.
        cache: Where downloads are kept; None: `$XDG_CACHE_HOME/distgen/fashion-mnist`.
        url: Where it is downloaded from.
        digests: SHA-256 of the inflated files by their names without `.gz`.

    Raises:
        DataError: A file is not the one that was published.
        DistgenError: It is not on this machine and cannot be downloaded.
    """
    source = IdxSource(_fashion_folder(folder, cache, url, digests), FASHION_CLASSES)
    source.name = "fashion-mnist"
    return source


def moving_fashion_mnist(
    clips: int | None = None, test_clips: int | None = None, frames: int | None = None
) -> Source:
    """Clips in which two items of Fashion-MNIST bounce around; see `sources.moving`.

    Args:
        clips: Clips to train on; None: as many as by default.
        test_clips: Clips that are held out.
        frames: Frames of a clip.

    Raises:
        UsageError: A number is out of range.
        DataError: A file is not the one that was published, or the test clips are others.
        DistgenError: Fashion-MNIST is not on this machine and cannot be downloaded.
    """
    folder = _fashion_folder()
    pictures = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        path = folder / f"{prefix}-images-idx3-ubyte.gz"
        pictures[split] = read_idx(read_maybe_gzipped(path), str(path))
    source = moving_source(MOVING, pictures, clips, test_clips, frames)
    check_frozen(MovingSource(MOVING, pictures), MOVING_TEST_SHA256)
    return source


def _fashion_folder(
    folder: Path = FASHION_FOLDER,
    cache: Path | None = None,
    url: str = FASHION_URL,
    digests: Mapping[str, str] = FASHION_SHA256,
) -> Path:
    """Where the files of Fashion-MNIST are, each of which was checked."""
    if not all((folder / f"{name}.gz").is_file() for name in digests):
        folder = cache or _cache_folder() / "fashion-mnist"
        for name in digests:
            _fetch(f"{url}/{name}.gz", folder / f"{name}.gz")
    for name, digest in digests.items():
        path = folder / f"{name}.gz"
        if sha256_of(read_maybe_gzipped(path)) != digest:
            raise DataError(
                "This is not the published file of Fashion-MNIST.",
                where=str(path),
                cause="its SHA-256 differs: it is damaged or was replaced",
                remedy=f"rm {path}, then run the same command again",
            )
    return folder


MADE_CLIPS: Final[Mapping[str, Callable[[int | None, int | None, int | None], Source]]] = {
    MOVING: moving_fashion_mnist
}
"""Sets of clips that distgen makes: by how many to train on, to hold out, and frames of each."""
BUILTIN: Final[Mapping[str, Callable[[], Source]]] = {
    "digits": DigitsSource,
    "fashion-mnist": fashion_mnist,
    MOVING: moving_fashion_mnist,
    "stacked-digits": lambda: StackedDigitsSource(DigitsSource()),
}


def _fetch(url: str, path: Path) -> None:
    if path.is_file():
        return
    try:
        response = httpx.get(url, timeout=_TIMEOUT_S, follow_redirects=True)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise DistgenError(
            "Fashion-MNIST is not on this machine and could not be downloaded.",
            where=url,
            cause=str(error) or type(error).__name__,
            remedy=f"apt-get install dataset-fashion-mnist, or put {path.name} into {path.parent}",
        ) from error
    locate(path).write_bytes(response.content)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distgen"
