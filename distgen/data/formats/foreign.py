"""The samples of a tar that anybody may have packed, as the `webdataset` library reads them.

What belongs together are members that follow one another under one key. The key is all of a name up
to the first dot behind the last slash, the extension is the rest in lower case, and members such as
`__meta__` are no samples. The picture of a sample is its `jpg`, `jpeg`, `png` or `webp` member, or
where there is none the one whose extension ends so, such as `v2.jpg`. A sample without any may be a
clip: a `npy` member that is a uint8 array [T, H, W, 1 or 3].
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
from PIL import Image

from distgen.core.errors import DataError
from distgen.core.spec import MAX_CLIP_BYTES, MAX_FRAMES, MAX_SIDE, Mode
from distgen.data.formats import npy
from distgen.data.formats.tars import Member, TarFile

MAX_FIELDS = 64
"""Kinds of members that the index covers; a set with more has dots in the names of its files."""
MAX_PICTURE_BYTES = 64 << 20
PICTURES = {"jpg": "jpg", "jpeg": "jpg", "png": "png", "webp": "webp"}
"""Extensions of pictures that can be streamed, and what the index calls them."""
CLIP = "npy"
"""Extension of clips."""

_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_PLAIN = re.compile(r"[a-z0-9_]{1,16}")
_MAX_CLS_BYTES = 256
_MAX_JSON_BYTES = 1 << 20
_MODES: dict[str, Mode] = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Rules:
    """How members become samples.

    Args:
        picture: Extension of the member that is the picture or the clip; None: the only one that
            can be.
        label_key: Key in the `json` member that says the class; None: the `cls` member does.
        kinds: Extensions of pictures.
        streamed: Whether pictures have to be streamable as they are, so that they are looked at.
    """

    picture: str | None = None
    label_key: str | None = None
    kinds: Collection[str] = tuple(PICTURES)
    streamed: bool = True

    def is_picture(self, extension: str) -> bool:
        """Whether a member with this extension may be the picture of a sample."""
        kind = extension.rpartition(".")[2]
        return kind in self.kinds and self.picture in (None, extension)

    def is_clip(self, extension: str) -> bool:
        """Whether a member with this extension may be the clip that a sample is."""
        kind = extension.rpartition(".")[2]
        return self.streamed and kind == CLIP and self.picture in (None, extension)

    def head(self, name: str) -> int:
        """Bytes that are read of the beginning of a member, whatever its size."""
        return npy.MAX_HEADER_BYTES if self.is_clip(split_name(name)[1]) else 0

    def wanted(self, name: str) -> int:
        """Bytes that are read of a member, at most; 0: its content does not matter."""
        _, extension = split_name(name)
        if self.streamed and self.is_picture(extension):
            return MAX_PICTURE_BYTES
        if extension == self.label_extension:
            return _MAX_CLS_BYTES if self.label_key is None else _MAX_JSON_BYTES
        return 0

    @property
    def label_extension(self) -> str:
        """Which member says the class."""
        return "cls" if self.label_key is None else "json"


def split_name(name: str) -> tuple[str | None, str]:
    """Key and extension of a member's name; no key where it is not part of a sample."""
    parts = None if _META.match(name) else _NAME.match(name)
    return (parts[1], parts[2].lower()) if parts else (None, "")


@dataclass
class Found:
    """What the samples of a tar have in common."""

    samples: int = 0
    fields: tuple[str, ...] = ()
    look: Look | None = None
    labels: dict[str, str] = field(default_factory=dict)
    """Every label that samples have, and a sample that has it."""
    no_clip: str | None = None
    """Why an array of a sample without a picture is no clip either."""
    without_picture: int = 0
    first_without: str | None = None


def scan_tar(file: TarFile, rules: Rules) -> tuple[Found, pa.Table]:
    """Find the samples of a tar.

    Returns:
        What they have in common, and one row for each: key, label as text or null, and offset,
        size and crc32 of each member.

    Raises:
        DataError: The tar is damaged, or its pictures cannot be streamed as they are.
    """
    found = Found()
    keys: list[str] = []
    labels: list[str | None] = []
    columns: dict[str, list[Member | None]] = {}
    for sample in samples_of(file, rules):
        extension = sample.picture(file, rules) or sample.clip(file, rules)
        if extension is None:
            found.no_clip = found.no_clip or sample.no_clip(file)
            found.without_picture += 1
            found.first_without = found.first_without or f"{sample.shown} in {file.where}"
            continue
        look = sample.look(file, extension)
        found.look = look.check_same(found.look)
        members = sample.plain_members()
        kind = extension.rpartition(".")[2]
        members[PICTURES.get(kind, kind)] = sample.members[extension]
        for name, member in members.items():
            if name not in columns and len(columns) == MAX_FIELDS:
                raise too_many_fields(file.where, columns)
            column = columns.setdefault(name, [])
            column += [None] * (len(keys) - len(column))
            column.append(member)
        keys.append(sample.shown)
        labels.append(sample.label)
        if sample.label is not None:
            found.labels.setdefault(sample.label, f"sample {sample.shown!r} in {file.where}")
    found.samples, found.fields = len(keys), tuple(sorted(columns))
    return found, _table(keys, labels, columns)


@dataclass
class Sample:
    """Members that belong together."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    """By extension; without their contents."""
    label: str | None = None
    """The class as text."""
    looks: dict[str, Look | str] = field(default_factory=dict)
    """Of pictures that have to be streamable: size and mode, or why they are not."""
    clips: dict[str, Look | str] = field(default_factory=dict)
    """The same of arrays that may be clips."""

    @property
    def shown(self) -> str:
        """The key as text; bytes that are no UTF-8 are written out."""
        return self.key.encode(errors="surrogateescape").decode(errors="backslashreplace")

    def picture(self, file: TarFile, rules: Rules) -> str | None:
        """Extension of the picture, if there is one.

        Raises:
            DataError: There are several.
        """
        fitting = [extension for extension in self.members if rules.is_picture(extension)]
        exact = [extension for extension in fitting if extension in rules.kinds]
        return self._only(file, exact or fitting, "pictures")

    def clip(self, file: TarFile, rules: Rules) -> str | None:
        """Extension of the array that is the clip, of a sample without a picture, if there is one.

        Raises:
            DataError: There are several.
        """
        # Arrays may be anything, such as features of what is not here, unless one was asked for.
        asked = rules.picture is not None
        fitting = [name for name, look in self.clips.items() if asked or isinstance(look, Look)]
        return self._only(file, [name for name in fitting if name == CLIP] or fitting, "clips")

    def no_clip(self, file: TarFile) -> str | None:
        """Why an array of this sample is no clip, if it has one."""
        for extension, look in self.clips.items():
            return f"{self.shown}.{extension} in {file.where} is no clip: {look}"
        return None

    def _only(self, file: TarFile, chosen: list[str], kind: str) -> str | None:
        if len(chosen) > 1:
            raise DataError(
                f"A sample has {len(chosen)} {kind}.",
                where=f"{file.where}, sample {self.shown!r}",
                cause=f"its members {', '.join(sorted(chosen)[:8])} are all {kind}",
                remedy=f"say which one is meant: --picture {min(chosen)}",
            )
        return chosen[0] if chosen else None

    def look(self, file: TarFile, extension: str) -> Look:
        """Size and mode of a picture or clip.

        Raises:
            DataError: It cannot be streamed as it is.
        """
        look = self.looks[extension] if extension in self.looks else self.clips[extension]
        if isinstance(look, Look):
            return look
        kind = "picture" if extension in self.looks else "clip"
        raise DataError(
            f"A {kind} cannot be streamed as it is.",
            where=f"{file.where}, member {self.shown}.{extension}",
            cause=look,
            remedy="distgen data build SRC DST converts it, with the folder of the tars as SRC",
        )

    def plain_members(self) -> dict[str, Member]:
        """What the index covers beside the picture."""
        return {
            extension: member
            for extension, member in self.members.items()
            if _PLAIN.fullmatch(extension) and extension not in PICTURES
        }


def samples_of(file: TarFile, rules: Rules) -> Iterator[Sample]:
    """Members that follow one another under one key; contents are looked at and let go.

    Raises:
        DataError: The tar is damaged, or a class cannot be read.
    """
    sample: Sample | None = None
    for member in file.members(rules.wanted, rules.head):
        key, extension = split_name(member.name)
        if key is None:
            continue
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key)
        if extension in sample.members:
            raise file.damaged(f"its sample {sample.shown!r} has two members .{extension}")
        sample.members[extension] = member._replace(content=b"")
        where = f"sample {sample.shown!r} in {file.where}"
        if rules.streamed and rules.is_picture(extension):
            sample.looks[extension] = look_at(member.content, where)
        elif rules.is_clip(extension):
            sample.clips[extension] = look_at_clip(member.content, member.size, where)
        elif extension == rules.label_extension:
            sample.label = label_of(member.content, rules.label_key, where)
    if sample is not None:
        yield sample


class Look(NamedTuple):
    """Size and mode of a picture, frames of a clip (None: a picture), and which one it is."""

    height: int
    width: int
    mode: Mode
    frames: int | None
    where: str

    def check_same(self, other: Look | None) -> Look:
        """The first of two pictures, or this one.

        Raises:
            DataError: They differ in size, mode or number of frames.
        """
        if other is None or self[:4] == other[:4]:
            return other or self
        differ = "pictures differ in size or mode"
        if self.frames is not None or other.frames is not None:
            differ = "samples differ in size, mode or number of frames"
        raise DataError(
            f"The {differ}, so they cannot be streamed as they are.",
            where=self.where,
            cause=f"it is {self.shown}, but {other.where} is {other.shown}",
            remedy="distgen data build SRC DST converts them, with the folder of the tars as SRC",
        )

    @property
    def shown(self) -> str:
        """Size and mode as text."""
        frames = "" if self.frames is None else f"a clip of {self.frames} frames of "
        return f"{frames}{self.width}x{self.height} {self.mode}"


def look_at(data: bytes, where: str) -> Look | str:
    """Size and mode by the header of an encoded picture, or why it cannot be streamed."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as image:
            width, height = image.size
            mode = _MODES.get(image.mode)
            if mode is None or image.has_transparency_data:
                return f"its mode is {image.mode}{' with transparency' if mode else ''}"
            if "exif" in image.info and image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
                return "its EXIF data say that it has to be turned"
    except Exception as error:  # a damaged file makes Pillow's plugins raise anything
        return f"its header cannot be read: {error or type(error).__name__}"
    if max(width, height) > MAX_SIDE:
        return f"it is {width}x{height} pixels; a side has at most {MAX_SIDE}"
    return Look(height, width, mode, None, where)


def look_at_clip(head: bytes, size: int, where: str) -> Look | str:
    """Size, mode and frames by the header of an array, or why it is no clip that can be streamed.

    Args:
        head: The first bytes of the member, `npy.MAX_HEADER_BYTES` of them.
        size: Bytes of the member.
        where: What errors call it.
    """
    try:
        shape, offset = npy.read_header(head)
    except ValueError as error:
        return str(error)
    text = npy.shape_text(shape)
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
        return f"its array is {text}; a clip is frames x height x width x 1 or 3 channels"
    frames, height, width, channels = shape
    if frames > MAX_FRAMES or max(height, width) > MAX_SIDE or math.prod(shape) > MAX_CLIP_BYTES:
        return f"its array of {text} is larger than a clip may be"
    if size - offset != math.prod(shape):
        return f"its {size - offset:,} bytes do not make an array of {text}"
    return Look(height, width, "L" if channels == 1 else "RGB", frames, where)


def label_of(data: bytes, key: str | None, where: str) -> str | None:
    """The class that a `cls` member, or under `key` a `json` member, says; None where it has none.

    Raises:
        DataError: It is not what it should be.
    """
    try:
        if key is None:
            return data.decode().strip() or None
        value = json.loads(data)
        found = value.get(key) if isinstance(value, dict) else value
        if isinstance(found, str | int | None) and not isinstance(found, bool):
            return None if found is None else str(found)[:_MAX_CLS_BYTES].strip() or None
        cause = f"its json has {type(found).__name__} where a number or a name should be"
    except (ValueError, RecursionError) as error:
        cause = f"{'cls' if key is None else 'json'}: {error}"
    raise DataError("A sample has no class that can be read.", where=where, cause=cause)


def too_many_fields(where: str, fields: Iterable[str]) -> DataError:
    """The error that says that members have too many extensions."""
    return DataError(
        f"The samples have more than {MAX_FIELDS} kinds of members.",
        where=where,
        cause=f"members such as {', '.join(f'.{name}' for name in sorted(fields)[:4])}: what "
        "follows the first dot of a name is its kind",
        remedy="distgen data build SRC DST, with the folder of the tars as SRC",
    )


def _table(
    keys: list[str], labels: list[str | None], columns: dict[str, list[Member | None]]
) -> pa.Table:
    arrays = {"key": pa.array(keys, pa.string()), "label": pa.array(labels, pa.string())}
    for name, members in columns.items():
        members += [None] * (len(keys) - len(members))
        for part, kind in (("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())):
            values = [None if member is None else getattr(member, part) for member in members]
            arrays[f"{name}.{part}"] = pa.array(values, kind)
    return pa.table(arrays)
