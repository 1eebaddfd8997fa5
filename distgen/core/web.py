"""Files on web servers, as pyarrow sees file systems: to be read, in parts, and never listed."""

from __future__ import annotations

import errno
import functools
import io
import os
from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import httpx
from pyarrow import BufferReader, NativeFile
from pyarrow import fs as pafs

TIMEOUT_S = 30.0
_CONNECTIONS = 64


class WebFile:
    """A file behind a URL. Thread-safe.

    Raises:
        FileNotFoundError: The server knows of no such file.
        OSError: The server refuses, breaks off, or cannot send parts.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def about(self) -> tuple[int, datetime | None]:
        """Bytes of the file, and when it changed if the server says so."""
        told = self._ask("HEAD").headers
        if "Content-Length" not in told:
            raise OSError("the server does not say how long the file is")
        try:
            changed = parsedate_to_datetime(told.get("Last-Modified", ""))
        except ValueError:
            changed = None
        return int(told["Content-Length"]), changed

    def read(self) -> bytes:
        """The whole file."""
        return self._ask("GET").content

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        if not size:
            return b""
        answer = self._ask("GET", {"Range": f"bytes={offset}-{offset + size - 1}"})
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""
        if answer.status_code != httpx.codes.PARTIAL_CONTENT and len(answer.content) > size:
            raise io.UnsupportedOperation("the server sends whole files where a part was asked for")
        return answer.content

    def _ask(self, method: str, headers: dict[str, str] | None = None) -> httpx.Response:
        # Compressed on the way, parts would not be parts of the file.
        asked = {"Accept-Encoding": "identity", **(headers or {})}
        try:
            answer = _client(os.getpid()).request(method, self._url, headers=asked)
        except httpx.HTTPError as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            raise FileNotFoundError(errno.ENOENT, "the server knows of no such file", self._url)
        past_the_end = answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE
        if answer.is_error and not past_the_end:
            raise OSError(f"HTTP status {answer.status_code}: {answer.reason_phrase}")
        return answer


class WebHandler(pafs.FileSystemHandler):  # type: ignore[misc]
    """What `pyarrow.fs.PyFileSystem` needs to read from web servers; paths are whole URLs."""

    def get_type_name(self) -> str:
        """What pyarrow calls this kind of file system."""
        return "web"

    def get_file_info(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        """Size of each file, or that it is not there."""
        return [_info(path) for path in paths]

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:  # noqa: ARG002
        """Nothing: web servers do not list."""
        return []

    def open_input_stream(self, path: str) -> NativeFile:
        """The whole file."""
        return BufferReader(WebFile(path).read())

    def open_input_file(self, path: str) -> NativeFile:
        """The whole file; `WebFile` reads parts."""
        return self.open_input_stream(path)

    def normalize_path(self, path: str) -> str:
        """URLs stay as they are."""
        return path

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise io.UnsupportedOperation("web servers are read from, and not written to")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WebHandler)

    __hash__ = None  # type: ignore[assignment]


def _info(url: str) -> pafs.FileInfo:
    try:
        size, changed = WebFile(url).about()
        return pafs.FileInfo(url, pafs.FileType.File, size=size, mtime=changed)
    except FileNotFoundError:
        return pafs.FileInfo(url, pafs.FileType.NotFound)


@functools.lru_cache(maxsize=1)
def _client(_process: int) -> httpx.Client:
    """Connections of one process: those of a parent must not be shared after a fork."""
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    return httpx.Client(follow_redirects=True, timeout=TIMEOUT_S, limits=limits)
