"""Whether a video is cut short, by what its container says of its own length.

Decoders take the end of the file for the end of the video, so most containers that lost their end
are read without an error. Only sizes that must hold are compared: one that is unknown, as in a
stream that was recorded live, says nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = frozenset(
    (b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"styp", b"free", b"skip", b"wide",
     b"uuid", b"meta", b"udta", b"pdin", b"emsg", b"prft")
)  # fmt: skip
_MAX_BOXES = 65_536
_MAX_EBML_BYTES = 4096  # of the header, which is some 40
_UNKNOWN_RIFF = (0, 0xFFFFFFFF)


def missing_bytes(path: Path) -> int:
    """How many bytes more the file should have; 0 where nothing says that any are missing."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(12)
        if start[:4] == b"RIFF":
            end = int.from_bytes(start[4:8], "little")
            return max(0, end + 8 - size) if end not in _UNKNOWN_RIFF else 0
        if start[:4] == _EBML:
            return max(0, _end_of_segment(file) - size)
        if start[4:8] in _BOXES:
            return max(0, _end_of_boxes(file, size) - size)
    return 0


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 or QuickTime file ends (ISO 14496-12)."""
    place = 0
    for _ in range(_MAX_BOXES):
        file.seek(place)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if head[4:8] not in _BOXES or length < 8:  # 0: to the end of the file
            return place
        place += length
        if place > size:
            return place
    return place


def _end_of_segment(file: BinaryIO) -> int:
    """Where the segment of a Matroska or WebM file ends (RFC 8794); 0 where it does not say."""
    file.seek(len(_EBML))
    header = _read_length(file)
    if header is None or header > _MAX_EBML_BYTES:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return 0
    length = _read_length(file)
    return 0 if length is None else file.tell() + length


def _read_length(file: BinaryIO) -> int | None:
    """A number of 1 to 8 bytes, of which the leading zeros say how many; None: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    mask = 1 << (7 - more)
    value = int.from_bytes(bytes([first[0] & (mask - 1)]) + file.read(more), "big")
    return None if value == (mask << (8 * more)) - 1 else value
