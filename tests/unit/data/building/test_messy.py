"""A folder as people have them: each file becomes a picture by its rule, or is listed with why."""

from __future__ import annotations

import csv
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from distgen.data import open_shard_set, read_samples
from distgen.data.building import build
from distgen.data.building.convert import Target, convert
from distgen.data.building.sources.item import key_of
from distgen.data.index import IndexReader

RED, WHITE, GREEN = (255, 0, 0), (255, 255, 255), (0, 255, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def interlaced(grey: int) -> bytes:
    """An 8x8 PNG in Adam7, which Pillow reads and does not write."""
    passes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))  # width, height
    rows = b"".join((b"\0" + bytes([grey]) * width) * height for width, height in passes)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def swapped_profile() -> bytes:
    """sRGB with the columns of red and green changed over: what is stored red looks green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {}
    for entry in range(struct.unpack_from(">I", profile, 128)[0]):
        name, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * entry)
        places[name] = offset
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    first, second = profile[red : red + 20], profile[green : green + 20]
    profile[red : red + 20], profile[green : green + 20] = second, first
    return bytes(profile)


def plain(mode: str, colour: Any, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, colour)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = plain("RGB", WHITE)
    stored.paste(RED, (0, 0, 4, 8))  # left as stored: on top as shown
    return encoded(stored, exif=exif)


def palette(**options: Any) -> bytes:
    image = plain("P", 0)
    image.putpalette([*RED, *GREEN])
    return encoded(image, **options)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FRAMES = [plain("RGB", GREEN), plain("RGB", RED)]
JPEG = encoded(plain("RGB", RED), "JPEG")

# Content, and the colour in the upper left corner (within 3 of 255), or why it is not in the set.
KINDS: dict[str, tuple[bytes | Callable[[Path], None], tuple[int, int, int] | str]] = {
    "clear.png": (encoded(plain("RGBA", (*RED, 0))), WHITE),
    "half-clear.webp": (encoded(plain("RGBA", (0, 0, 0, 128)), "WEBP", lossless=True), (127,) * 3),
    "grey-clear.png": (encoded(plain("LA", (0, 0))), WHITE),
    "palette.png": (palette(), RED),
    "palette-clear.png": (palette(transparency=0), WHITE),
    "one-bit.png": (encoded(plain("1", 1)), WHITE),
    "cmyk.jpg": (encoded(plain("CMYK", (255, 0, 0, 0)), "JPEG"), (0, 255, 255)),
    "cmyk.tif": (encoded(plain("CMYK", (0, 255, 255, 0)), "TIFF"), RED),
    "sixteen.png": (encoded(Image.fromarray(np.full((8, 8), 32768, np.uint16))), (128,) * 3),
    "turned.png": (turned(), RED),
    "animated.gif": (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), GREEN),
    "animated.webp": (
        encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
        GREEN,
    ),
    "interlaced.png": (interlaced(77), (77,) * 3),
    "progressive.jpg": (encoded(plain("RGB", RED), "JPEG", progressive=True, quality=95), RED),
    "srgb.png": (encoded(plain("RGB", RED), icc_profile=SRGB), RED),
    "profile.png": (encoded(plain("RGB", RED), icc_profile=swapped_profile()), GREEN),
    "profile.jpg": (encoded(plain("RGB", RED), "JPEG", icc_profile=swapped_profile()), GREEN),
    "profile-clear.png": (
        encoded(plain("RGBA", (*RED, 128)), icc_profile=swapped_profile()),
        (127, 255, 127),
    ),
    "profile-broken.png": (encoded(plain("RGB", RED), icc_profile=b"no profile at all"), RED),
    "jpeg-by-another-name.png": (JPEG, RED),
    "UPPER.JPG": (encoded(plain("RGB", RED), "JPEG", quality=90), RED),
    "Größe 大きさ مقاس 🙂.png": (encoded(plain("RGB", GREEN)), GREEN),
    'two\nlines, and "quotes".png': (encoded(plain("RGB", (1, 2, 3))), (1, 2, 3)),
    "narrow.png": (encoded(plain("RGB", RED, (1, 300))), RED),
    "long.png": (encoded(plain("RGB", GREEN, (20_000, 3))), GREEN),
    "linked.png": (lambda path: path.symlink_to(path.with_name("palette.png")), RED),
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"hello, I am text", "not a picture"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "decoded"),
    "cut.png": (encoded(plain("RGB", RED))[:-30], "decoded"),
    "bomb.png": (encoded(Image.new("1", (20_000, 10_000))), "more than 178,956,970 pixels"),
    "floating.tif": (encoded(plain("F", 1.0), "TIFF"), "floating-point"),
    "notes.txt": (b"not a picture", "'.txt'"),
    "Makefile": (b"all:", "''"),
    "nowhere.png": (lambda path: path.symlink_to("gone.png"), "No such file"),
    "circle.png": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "pipe.png": (lambda path: os.mkfifo(path), "not a regular file"),
}


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    folder = tmp_path / "messy" / "all"
    folder.mkdir(parents=True)
    for name, (content, _) in KINDS.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            content(folder / name)
    (folder / "loop").symlink_to(folder.parent)
    (folder / ".DS_Store").write_bytes(b"x")
    return folder.parent


def test_every_kind_follows_its_rule_or_is_listed(messy: Path, tmp_path: Path) -> None:
    built = build(str(messy), tmp_path / "set", size=8, mode="RGB", encoding="png")
    shard_set = open_shard_set(str(tmp_path / "set"))
    images_nhwc, _ = read_samples(shard_set, np.arange(shard_set.num_samples))
    keys = IndexReader(shard_set).table(0, ["key"]).column("key").to_pylist()
    corners = dict(zip(keys, images_nhwc[:, 0, 0].astype(int), strict=True))
    with (tmp_path / "set" / "rejected.csv").open(newline="") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    for name, (_, outcome) in KINDS.items():
        if isinstance(outcome, str):
            assert outcome in reasons.pop(str(messy / "all" / name)), name
        else:
            assert np.abs(corners.pop(key_of(f"all/{name}")) - outcome).max() <= 3, name
    assert not reasons
    assert not corners
    assert built.num_samples + built.rejected == len(KINDS)


def test_a_jpeg_in_srgb_is_kept_and_one_in_other_colours_is_not(tmp_path: Path) -> None:
    kept = encoded(plain("RGB", RED), "JPEG", icc_profile=SRGB)
    assert convert(kept, Target(8, 8, "RGB")).data == kept
    changed = encoded(plain("RGB", RED), "JPEG", icc_profile=swapped_profile())
    assert convert(changed, Target(8, 8, "RGB")).data != changed


def test_a_folder_that_cannot_be_listed_is_named(
    messy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (messy / "all" / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    built = build(str(messy), tmp_path / "set", size=8)
    assert built.num_samples + built.rejected == len(KINDS) + 1
    text = (tmp_path / "set" / "rejected.csv").read_text()
    assert f"{messy / 'all' / 'closed'},the folder cannot be listed: Permission denied" in text
