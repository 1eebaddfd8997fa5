"""Object stores: how they are reached, which of their errors pass, and who they take us for."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from configparser import ConfigParser, Error
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from pyarrow import fs as pafs

from distgen.core.retry import Patience, outlast, persist
from distgen.core.secrets import without_user

T = TypeVar("T")

PATIENCE = Patience()
"""With stores that do not answer, or say that they cannot just now."""
_HURRY: ContextVar[Patience | None] = ContextVar("hurry", default=None)

# What no second try will change. All else passes sooner or later: overload, cut connections, name
# servers, and whatever a store's next version calls its bad moments.
_FINAL = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "INVALID_SIGNATURE",
    "SIGNATURE_DOES_NOT_MATCH",
    "UNRECOGNIZED_CLIENT",
    "NO_SUCH_BUCKET",
    "NO_SUCH_KEY",
    "RESOURCE_NOT_FOUND",
    "VALIDATION",
    "ExpiredToken",
    "InvalidToken",
    "HTTP status 400",
    "HTTP status 401",
    "HTTP status 403",
    "HTTP status 404",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "NOT_FOUND",
)
_S3_OPTIONS = ("anonymous", "endpoint_override", "region", "scheme")
_YES_OR_NO = {"true": True, "false": False}


def open_store(url: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URL, and the path in it.

    Raises:
        ValueError, OSError: The URL cannot be used; the text says why.
    """
    scheme = urlsplit(without_user(url)).scheme
    if scheme == "s3":
        return _open_s3(url)
    if scheme in ("http", "https"):
        from distgen.core.web import WebHandler  # few need it, and all would wait for httpx

        return pafs.PyFileSystem(WebHandler()), url
    filesystem, path = pafs.FileSystem.from_uri(url)
    return filesystem, path


def reach(work: Callable[[], T]) -> T:
    """What `work` returns from a store, tried for a while.

    Raises:
        OSError: The store refused, or did not answer in time.
    """
    return persist(work, is_transient, _HURRY.get() or PATIENCE)


def outlast_full_disk(work: Callable[[], T]) -> T:
    """What `work` returns, tried for a while where a disk or a quota is full: others may make room.

    Raises:
        OSError: There is still no room, or it is something else.
    """
    return outlast(work, is_full, _HURRY.get() or PATIENCE)


@contextmanager
def missing_named() -> Iterator[None]:
    """Inside, what is removed from S3 between its opening and its reading is missing, and says so.

    Raises:
        FileNotFoundError: Instead of pyarrow's plain `OSError`.
    """
    try:
        yield
    except OSError as error:
        if "RESOURCE_NOT_FOUND" in str(error) or "NO_SUCH_KEY" in str(error):
            raise FileNotFoundError(errno.ENOENT, str(error)) from error
        raise


def is_full(error: OSError) -> bool:
    """Whether there is no room for what was to be written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def hurry(patience: Patience) -> Iterator[None]:
    """Inside, stores are given this much time by this thread: somebody waits for an answer."""
    before = _HURRY.set(patience)
    try:
        yield
    finally:
        _HURRY.reset(before)


def is_transient(error: OSError) -> bool:
    """Whether trying again may help."""
    final = FileNotFoundError | PermissionError | IsADirectoryError | io.UnsupportedOperation
    if isinstance(error, final):
        return False
    text = str(error)
    return not any(mark in text for mark in _FINAL)


def credentials_of(filesystem: pafs.FileSystem, url: str) -> str:
    """Where the credentials for a place in a store come from, in words; never what they are."""
    if isinstance(filesystem, pafs.S3FileSystem):
        options = dict(parse_qsl(urlsplit(url).query))
        return "none (anonymous)" if options.get("anonymous") == "true" else _s3_credentials()
    if isinstance(filesystem, pafs.GcsFileSystem):
        named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        return f"the file {named}" if named else "Google's defaults for this machine"
    return "none"


def _open_s3(url: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(url)
    options: dict[str, str | bool] = dict(parse_qsl(parts.query))
    unknown = sorted(set(options) - set(_S3_OPTIONS))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no option; there are {', '.join(_S3_OPTIONS)}")
    # A bucket that everybody may read may still refuse whose credentials it does not know.
    anonymous = _YES_OR_NO.get(str(options.get("anonymous", "false")))
    if anonymous is None:
        raise ValueError(f"anonymous is true or false, and not {options['anonymous']!r}")
    options["anonymous"] = anonymous
    bucket = parts.netloc
    if not bucket:
        raise ValueError("it names no bucket")
    if not options.keys() & {"region", "endpoint_override"} and not _has_region():
        options["region"] = pafs.resolve_s3_region(bucket)
    # One try at a time: how often and how long to try is decided in one place, by `persist`.
    once = pafs.AwsStandardS3RetryStrategy(max_attempts=1)
    filesystem = pafs.S3FileSystem(
        **options,
        connect_timeout=10,
        request_timeout=PATIENCE.attempt_s,
        retry_strategy=once,
        allow_bucket_creation=False,
    )
    return filesystem, f"{bucket}{parts.path}"


def _has_region() -> bool:
    names = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
    return any(os.environ.get(name) for name in names)


def _s3_credentials() -> str:
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return "the environment (AWS_ACCESS_KEY_ID)"
    profile = os.environ.get("AWS_PROFILE") or "default"
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    parser = ConfigParser()
    try:
        parser.read(Path(file).expanduser())
    except Error:
        return f"{file}, which cannot be read"
    if parser.has_section(profile):
        return f"the profile {profile!r} in {file}"
    return "this machine's role (nothing in the environment, no profile)"
