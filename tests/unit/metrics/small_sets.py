"""Shard sets of given pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distgen.core.spec import ImageSpec
from distgen.core.storage import locate
from distgen.data import ShardSet, open_shard_set
from distgen.data.building import SetWriter
from distgen.data.formats.png import encode_plain


def write_set(
    folder: Path,
    images_nhwc: np.ndarray,
    labels_n: np.ndarray | None = None,
    classes: tuple[str, ...] = (),
    split: str | None = None,
) -> ShardSet:
    """A set of these pictures, in order."""
    _, height, width, channels = images_nhwc.shape
    spec = ImageSpec(
        height=height, width=width, mode="L" if channels == 1 else "RGB", classes=classes
    )
    fields = ("cls", "png") if classes else ("png",)
    with SetWriter(locate(folder), name="given", image=spec, fields=fields, split=split) as writer:
        for number, picture in enumerate(images_nhwc):
            label = -1 if labels_n is None else int(labels_n[number])
            writer.add(f"sample-{number:05d}", {"png": encode_plain(picture)}, label)
        writer.next_shard()
        writer.commit()
    return open_shard_set(str(folder))
