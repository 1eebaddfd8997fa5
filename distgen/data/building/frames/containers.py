"""Whether a video is cut short or lost frames, by what its container says of itself.

Decoders take the end of the file for the end of the video, so most containers that lost their end
are read without an error. Only sizes that must hold are compared: one that is unknown, as in a
stream that was recorded live, says nothing. Where the framing of a Matroska file is damaged,
FFmpeg looks for the next place that it understands, and what lies between is lost without a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK = b"\xa3", b"\xa0", b"\xa1"
_TRACKS, _TRACK_ENTRY, _TRACK_NUMBER = b"\x16\x54\xae\x6b", b"\xae", b"\xd7"
_CRC32, _VOID = b"\xbf", b"\xec"
# RFC 9559: what a segment, and what a cluster of blocks, is made of.
_IN_SEGMENT = frozenset(
    (_CLUSTER, _TRACKS, _CRC32, _VOID, b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66",
     b"\x1c\x53\xbb\x6b", b"\x19\x41\xa4\x69", b"\x10\x43\xa7\x70", b"\x12\x54\xc3\x67")
)  # fmt: skip
_IN_CLUSTER = frozenset(
    (_SIMPLE_BLOCK, _BLOCK_GROUP, _CRC32, _VOID, b"\xe7", b"\x58\x54", b"\xa7", b"\xab", b"\xaf")
)
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
            _, end = _segment(file)
            return max(0, end - size)
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


class BrokenError(Exception):
    """The blocks of a Matroska file do not follow one another from a byte on."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


def last_block(path: Path) -> int:
    """Where the content of a Matroska or WebM file's last block begins; 0 for other kinds.

    Raises:
        BrokenError: Its blocks do not follow one another.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(_EBML)) != _EBML:
            return 0
        begin, end = _segment(file)
        return _walk_segment(file, begin, end or size, live=not end) if begin else 0


class _Element(NamedTuple):
    place: int
    id: bytes
    begin: int
    end: int | None
    """None: unknown, as while a stream is recorded."""


def _walk_segment(file: BinaryIO, place: int, end: int, live: bool) -> int:
    """Where the content of the last block begins."""
    tracks: set[int] = set()
    last = 0
    while place < end:
        element = _element(file, place, end, live)
        if element.id not in _IN_SEGMENT:
            raise BrokenError(place)
        place = element.begin
        if element.id == _CLUSTER:
            for block in _blocks(file, element, end, live):
                if block.id in (_SIMPLE_BLOCK, _BLOCK):
                    if _number(file, block.begin) not in tracks:
                        raise BrokenError(block.place)
                    last = block.begin
                place = block.end or end
        if element.id == _TRACKS:
            tracks |= _track_numbers(file, element)
        place = place if element.end is None else element.end
    return last


def _blocks(file: BinaryIO, cluster: _Element, end: int, live: bool) -> Iterator[_Element]:
    """What a cluster holds; of a group, its parts."""
    place, last = cluster.begin, cluster.end or end
    while place < last:
        element = _element(file, place, last, live)
        if cluster.end is None and element.id in _IN_SEGMENT - _IN_CLUSTER:
            return
        if element.id not in _IN_CLUSTER or element.end is None:
            raise BrokenError(place)
        if element.id == _BLOCK_GROUP:
            yield from _children(file, element)
        yield element
        place = element.end


def _track_numbers(file: BinaryIO, tracks: _Element) -> set[int]:
    return {
        int.from_bytes(_content(file, part), "big")
        for entry in _children(file, tracks)
        if entry.id == _TRACK_ENTRY
        for part in _children(file, entry)
        if part.id == _TRACK_NUMBER
    }


def _children(file: BinaryIO, parent: _Element) -> Iterator[_Element]:
    place, end = parent.begin, parent.end or parent.begin
    while place < end:
        element = _element(file, place, end, live=False)
        yield element
        place = end if element.end is None else element.end


def _content(file: BinaryIO, element: _Element) -> bytes:
    file.seek(element.begin)
    return file.read(min(8, (element.end or element.begin) - element.begin))


def _number(file: BinaryIO, place: int) -> int | None:
    file.seek(place)
    return _read_length(file)


def _element(file: BinaryIO, place: int, end: int, live: bool) -> _Element:
    """The element that begins at a place and ends before the end of what it is part of."""
    file.seek(place)
    first = file.read(1)
    if not first or first[0] < 0x10:  # names have 1 to 4 bytes
        raise BrokenError(place)
    name = first + file.read(8 - first[0].bit_length())
    length = _read_length(file)
    begin = file.tell()
    is_cut = begin >= end if length is None else begin + length > end
    if is_cut and live:  # the recording broke off here
        return _Element(place, name if name == _CLUSTER else _VOID, begin, end)
    if is_cut or (length is None and name != _CLUSTER):
        raise BrokenError(place)
    if length is None:
        return _Element(place, name, begin, None)
    return _Element(place, name, begin, begin + length)


def _segment(file: BinaryIO) -> tuple[int, int]:
    """Where the segment of a Matroska or WebM file begins and ends (RFC 8794); 0 where unknown."""
    file.seek(len(_EBML))
    header = _read_length(file)
    if header is None or header > _MAX_EBML_BYTES:
        return 0, 0
    file.seek(header, os.SEEK_CUR)
    if file.read(len(_SEGMENT)) != _SEGMENT:
        return 0, 0
    length = _read_length(file)
    begin = file.tell()
    return begin, 0 if length is None else begin + length


def _read_length(file: BinaryIO) -> int | None:
    """A number of 1 to 8 bytes, of which the leading zeros say how many; None: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    mask = 1 << (7 - more)
    rest = file.read(more)
    if len(rest) < more:  # the file ends within it
        return None
    value = int.from_bytes(bytes([first[0] & (mask - 1)]) + rest, "big")
    return None if value == (mask << (8 * more)) - 1 else value
