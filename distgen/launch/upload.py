"""What travels with a job: a folder's files, chosen as git would choose, and measured first."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ray._private.thirdparty.pathspec import PathSpec

from distgen.core.errors import UsageError

IGNORE_FILES = (".gitignore", ".distgenignore")
DEFAULT_EXCLUDES = (
    # what others have made, or can make again
    *(".git/", ".hg/", ".svn/", ".venv/", "venv/", "env/", "node_modules/", "__pycache__/"),
    *(".mypy_cache/", ".ruff_cache/", ".pytest_cache/", ".hypothesis/", "*.egg-info/"),
    # what runs read and write: too much to send, and elsewhere on a cluster
    *("/runs/", "/shards/", "/models/", "/mlruns/", "/demo/"),
    # what nobody else should have
    *(".env", ".netrc", ".aws/", ".ssh/", ".ray/", "auth_token", "*.pem", "*.key", "id_rsa*"),
)
MAX_BYTES = 100 << 20
"""Of all files together: every node that works for the job unpacks them."""
LARGE_BYTES = 10 << 20
"""From here on the largest files are named before they are sent."""
_ENVIRONMENT = "pyvenv.cfg"  # marks a virtual environment, whatever its name is
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal files make equal archives, which Ray sends once


@dataclass
class Upload:
    """Files of a folder that are sent with a job."""

    folder: Path
    files: dict[str, int] = field(default_factory=dict)
    """Path below the folder, and size in bytes."""
    links: list[str] = field(default_factory=list)
    """Links and other things that are no files, which stay here."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(self.files.values())

    def largest(self, count: int = 5) -> list[tuple[str, int]]:
        """The largest files and their sizes, the largest first."""
        return sorted(self.files.items(), key=lambda item: (-item[1], item[0]))[:count]


def choose(folder: Path, excludes: Sequence[str] = ()) -> Upload:
    """The files of a folder that a job gets.

    Left out are `DEFAULT_EXCLUDES`, virtual environments, what `.gitignore` and `.distgenignore`
    files name, and `excludes`, patterns of the same kind. Links are not followed: they may lead to
    what is nobody else's.

    Raises:
        UsageError: There is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {str(folder)!r} to send.", remedy="--upload FOLDER, or none"
        )
    chosen = Upload(folder)
    _walk(chosen, folder, [], excludes)
    return chosen


def require_small(upload: Upload) -> None:
    """Refuse what is too large to be sent to every node.

    Raises:
        UsageError: Names the largest files.
    """
    if upload.bytes <= MAX_BYTES:
        return
    names = ", ".join(f"{name} ({in_words(size)})" for name, size in upload.largest())
    raise UsageError(
        f"The folder's files have {in_words(upload.bytes)}, and at most {in_words(MAX_BYTES)} "
        "are sent with a job.",
        where=str(upload.folder),
        cause=f"the largest are {names}",
        remedy=f"--exclude {upload.largest(1)[0][0]!r}, or a line in .distgenignore; data belong "
        "into a store that the cluster reads, such as s3://",
    )


def pack(upload: Upload | None, extra: dict[str, str], archive: Path) -> int:
    """Write the files, and `extra` texts by name, as a zip; returns its size in bytes.

    Raises:
        UsageError: A file is no longer what it was when it was chosen.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(upload.files) if upload else ():
            if name not in extra:
                assert upload is not None  # noqa: S101
                packed.writestr(*_entry(upload.folder, name))
        for name, text in extra.items():
            packed.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return archive.stat().st_size


def in_words(size: int) -> str:
    """A size for people."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _walk(
    chosen: Upload, folder: Path, rules: list[tuple[str, PathSpec]], excludes: Sequence[str]
) -> None:
    below = folder.relative_to(chosen.folder).as_posix()
    prefix = "" if below == "." else f"{below}/"
    lines = [line for name in IGNORE_FILES for line in _lines(folder / name)]
    if not prefix:  # the caller's own word is the last
        lines = [*DEFAULT_EXCLUDES, *lines, *excludes]
    rules = [*rules, (prefix, PathSpec.from_lines("gitwildmatch", lines))]
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = prefix + entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        if _excluded(f"{name}/" if is_folder else name, rules):
            continue
        if is_folder:
            if not (folder / entry.name / _ENVIRONMENT).is_file():
                _walk(chosen, folder / entry.name, rules, excludes)
        elif entry.is_file(follow_symlinks=False):
            chosen.files[name] = entry.stat(follow_symlinks=False).st_size
        else:
            chosen.links.append(name)


def _lines(file: Path) -> Iterator[str]:
    if file.is_file() and not file.is_symlink():
        yield from file.read_text(encoding="utf-8", errors="replace").splitlines()


def _excluded(name: str, rules: Sequence[tuple[str, PathSpec]]) -> bool:
    return any(spec.match_file(name.removeprefix(prefix)) for prefix, spec in rules)


def _entry(folder: Path, name: str) -> tuple[zipfile.ZipInfo, bytes]:
    place = folder / PurePosixPath(name)
    try:
        # What became a link since it was looked at is not followed either.
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise UsageError(
            f"A file changed while it was sent: {error.strerror}.",
            where=str(place),
            remedy="the same command again",
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        info = zipfile.ZipInfo(name, _EPOCH)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = (stat.S_IMODE(os.fstat(descriptor).st_mode) | stat.S_IFREG) << 16
        return info, file.read()
