"""Walking through tars that anybody may have written: names, places and checksums of members.

`tarfile` takes a damaged header and a file that was cut off for the end of the archive, and loses
the rest without a word. Here both are errors that name the file. Where the digest of the file is
wanted, every byte is read once, in order and in pieces of a few megabytes; else what is not wanted
is passed over. No number in a header makes anything larger than what is asked for, or reaches
beyond the file.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from distgen.core.errors import DataError
from distgen.core.storage import Ranges

MAX_NAME = 4096
"""Characters of a member's name, as many as a path may have."""

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(_BLOCK)
_READ_BYTES = 4 << 20
_GLANCE_BYTES = 16 << 10  # on a disk, where a second read costs less than bytes that nobody wants
_MAX_EXTENSION = 1 << 20  # of the header blocks that hold long names
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_GNU_LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_SPARSE = ("GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_WHAT = "A tar cannot be used."


class Member(NamedTuple):
    """A regular file in a tar: where its bytes lie, and themselves if wanted.

    The checksum is 0 where the bytes were passed over.
    """

    name: str
    offset: int
    size: int
    crc32: int
    content: bytes


class TarFile:
    """A tar that is read once from its beginning to its end.

    Args:
        ranges: The file.
        size: Its length in bytes.
        where: What errors call it.
        on_read: Told how many bytes further it has come, each time.
        whole: Whether every byte is read, which the digest and the checksums of members need.
        distant: Whether a read costs so much that it had better be a large one.
    """

    def __init__(
        self,
        ranges: Ranges,
        size: int,
        where: str,
        on_read: Callable[[int], None] = lambda _size: None,
        *,
        whole: bool = True,
        distant: bool = False,
    ) -> None:
        self.size = size
        self.where = where
        self._ranges = ranges
        self._on_read = on_read
        self._digest = hashlib.sha256()
        self._piece = memoryview(b"")
        self._piece_at = 0
        self._place = 0
        self._whole = whole
        self._read_bytes = _READ_BYTES if whole or distant else _GLANCE_BYTES
        self._told = 0

    def members(
        self, wanted: Callable[[str], int], heads: Callable[[str], int] = lambda _name: 0
    ) -> Iterator[Member]:
        """The regular files in it, in the order in which they lie.

        Args:
            wanted: Says of a name how many bytes its content may have to be kept; 0: not kept.
            heads: Says of a name how many of its first bytes are kept, where it is not wanted.

        Raises:
            DataError: It is no tar, is damaged or cut short, or a member is larger than wanted.
        """
        shared: dict[str, str] = {}
        while (header := self._next_header()) is not None:
            told: dict[str, str] = {}
            while header.type in _PAX or header.type in _GNU_LONG:
                self._read_extension(header, told, shared)
                header = self._next_header()
                if header is None:
                    raise self.damaged("it ends after the header of a long name")
            attributes = shared | told
            name = attributes.get("path", header.name)
            begin, size = self._place, self._size_of(header, attributes)
            if header.type not in tarfile.REGULAR_TYPES:
                # Links, folders and devices have no content, whatever their headers say.
                if header.type not in tarfile.SUPPORTED_TYPES:
                    self._content(size, name, keep=0)
                continue
            if header.type == tarfile.GNUTYPE_SPARSE or any(k in attributes for k in _SPARSE):
                raise self.damaged(f"its member {_shown(name)} is a sparse file")
            if len(name) > MAX_NAME:
                raise self.damaged(f"the name of a member has {len(name)} characters")
            self._check_reach(size, name)
            limit = wanted(name)
            if limit and size > limit:
                raise self.damaged(
                    f"its member {_shown(name)} has {size} bytes, more than the {limit} that are "
                    "read of such a member"
                )
            crc32, content = self._content(size, name, keep=limit or heads(name))
            yield Member(name, begin, size, crc32, content)
        if not self._whole:
            self._tell(self.size)

    def sha256(self) -> str:
        """The digest of the whole file, of which the rest is read now."""
        assert self._whole  # noqa: S101
        for _ in self._pieces(self.size - self._place):
            pass
        return self._digest.hexdigest()

    def damaged(self, cause: str) -> DataError:
        """The error that says why this tar is refused."""
        return DataError(
            _WHAT,
            where=self.where,
            cause=cause,
            remedy="copy it again from where it came, or pack its pictures anew: "
            "distgen data build SRC DST",
        )

    def _next_header(self) -> tarfile.TarInfo | None:
        """The next header block; None at the blocks of zeros that end a tar."""
        begin = self._place
        if self.size - begin < _BLOCK:
            if self.size == 0:
                raise self.damaged("it is empty")
            raise self._cut_short(f"it ends at byte {self.size} without the blocks that end a tar")
        block = b"".join(self._pieces(_BLOCK))
        if block == _END:
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if begin == 0 and block[:2] in _COMPRESSED:
                kind = _COMPRESSED[block[:2]]
                cause = f"it is compressed ({kind}), so no part of it can be read by itself"
                raise DataError(
                    _WHAT, where=self.where, cause=cause, remedy=f"decompress it with {kind} -d"
                ) from error
            kind = "it is no tar" if begin == 0 else f"the header at byte {begin} is damaged"
            raise self.damaged(f"{kind}: {error}") from error

    def _read_extension(
        self, header: tarfile.TarInfo, told: dict[str, str], shared: dict[str, str]
    ) -> None:
        """Take what a header says of the next one, or of all that follow."""
        if not 0 <= header.size <= _MAX_EXTENSION:
            raise self.damaged(
                f"the header before byte {self._place} claims a long name of {header.size} bytes"
            )
        _, body = self._content(header.size, header.name, keep=header.size)
        if header.type == tarfile.XGLTYPE:
            shared.update(self._pax_records(body))
        elif header.type in _PAX:
            # Of several headers before a member the first has the last word, as in `tarfile`.
            told.update(self._pax_records(body) | told)
        elif header.type == tarfile.GNUTYPE_LONGNAME:
            told.setdefault("path", body.partition(b"\0")[0].decode(errors="surrogateescape"))

    def _size_of(self, header: tarfile.TarInfo, attributes: dict[str, str]) -> int:
        text = attributes.get("size", str(header.size))
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            raise self.damaged(f"the header before byte {self._place} claims {text[:32]!r} bytes")
        return int(text)

    def _pax_records(self, body: bytes) -> dict[str, str]:
        """The `length keyword=value` lines of an extended header."""
        records: dict[str, str] = {}
        place = 0
        while place < len(body) and body[place] != 0:
            digits, space, _ = body[place : place + 24].partition(b" ")
            length = int(digits) if space and digits.isdigit() else 0
            line = body[place : place + length]
            keyword, equals, value = line[len(digits) + 1 : -1].partition(b"=")
            if not equals or len(line) != length or line[-1:] != b"\n":
                raise self.damaged(f"the extended header before byte {self._place} is malformed")
            text = value.decode(errors="surrogateescape")
            name = keyword.decode(errors="surrogateescape")
            records[name] = text.rstrip("/") if name == "path" else text
            place += length
        return records

    def _content(self, size: int, name: str, *, keep: int) -> tuple[int, bytes]:
        """CRC-32 of the next `size` bytes, and `keep` of them; moves on to the next header."""
        self._check_reach(size, name)
        if not keep and not self._whole:
            self._place += size + -size % _BLOCK
            return 0, b""
        crc32 = 0
        parts = []
        for part in self._pieces(size):
            crc32 = zlib.crc32(part, crc32)
            if keep > 0:
                parts.append(part[:keep])
                keep -= len(part)
        for _ in self._pieces(-size % _BLOCK):
            pass
        return crc32, b"".join(parts)

    def _check_reach(self, size: int, name: str) -> None:
        if self._place + size + -size % _BLOCK > self.size:
            raise self._cut_short(
                f"its member {_shown(name)} reaches to byte {self._place + size}, "
                f"but the file ends at byte {self.size}"
            )

    def _pieces(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes, which are there."""
        stop = self._place + size
        while self._place < stop:
            begin = self._place - self._piece_at
            if begin >= len(self._piece):
                self._read()
                begin = 0
            part = self._piece[begin : begin + stop - self._place]
            self._place += len(part)
            yield part

    def _read(self) -> None:
        count = min(self._read_bytes, self.size - self._place)
        data = self._ranges.read_at(self._place, count)
        if len(data) != count:
            raise self._cut_short(f"it ended at byte {self._place + len(data)} while it was read")
        self._digest.update(data)
        self._tell(self._place + count)
        self._piece, self._piece_at = memoryview(data), self._place

    def _tell(self, place: int) -> None:
        self._on_read(place - self._told)
        self._told = place

    def _cut_short(self, cause: str) -> DataError:
        return DataError(
            "A tar is cut short.",
            where=self.where,
            cause=cause,
            remedy="copy it again from where it came",
        )


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:100]}...")
