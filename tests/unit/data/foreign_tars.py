"""Tars as others write them, whole and odd, for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import webdataset
from PIL import Image

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def picture(value: int = 0, size: tuple[int, int] = (6, 4), mode: str = "RGB", **options: Any):
    """Bytes of a PNG, of one colour."""
    file = io.BytesIO()
    colour = value if mode in ("L", "P") else (value,) * len(mode)
    image = Image.new(mode, size, colour)
    image.save(file, **({"format": "PNG"} | options))
    return file.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], kind: str = "gnu") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=FORMATS[kind]) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def messy(shard: int) -> list[tuple[str, bytes]]:
    """Members in all the ways in which people name them."""
    deep = "/".join(["a folder.with.dots"] * 12)
    names = [
        ("0001", "PNG"),
        (f"{deep}/{'long' * 60}", "png"),
        ("dir.v1/sub/x", "Jpeg"),
        ("./y", "png"),
        ("ünïcode-名前-\udcff", "png"),
        ("space here", "png"),
        ("multi", "v2.final.png"),
    ]
    result: list[tuple[str, bytes]] = [("__meta__", b"x"), ("__index__/a.json", b"{}")]
    for number, (key, extension) in enumerate(names):
        value = 10 * shard + number
        kind = "JPEG" if extension == "Jpeg" else "PNG"
        result.append((f"{key}.{extension}", picture(value, format=kind)))
        result.append((f"{key}.cls", str(number % 3).encode()))
        if key == "0001":
            result.append((f"{key}.seg.PNG", picture(value, (1, 1), "RGBA")))
        result.append((f"{key}.txt", b"words" * 300))
    result.append(("README.md", b"no sample"))
    result.append(("Makefile", b"no extension"))
    return result


def webdataset_samples(folder: Path) -> list[dict[str, Any]]:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    pipeline = webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=None, empty_check=False)
    return list(pipeline)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(exif=exif)


def labelled(labels: Sequence[str | None], extension: str = "cls") -> list[tuple[str, bytes]]:
    members = []
    for number, label in enumerate(labels):
        members.append((f"{number}.png", picture()))
        if label is not None:
            members.append((f"{number}.{extension}", label.encode()))
    return members


class Bytes:
    """A file in memory that counts what is read, and allows no place outside."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read = 0

    def read_at(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= len(self.data)
        self.read += size
        return self.data[offset : offset + size]


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(record: bytes, kind: bytes = b"x") -> bytes:
    body = b" " + record + b"\n"
    body = str(len(body) + 2).encode() + body
    return header("pax", kind, len(body)) + body.ljust(512, b"\0")
