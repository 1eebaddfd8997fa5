"""The file of keys: what is known of each, and nothing by which one could be used.

A key is 256 random bits behind a prefix that scanners for leaked secrets can look for. Nobody can
guess or enumerate such keys, so a plain SHA-256 keeps them as safe as a slow password hash would,
which is for secrets that people choose; and every request pays for it. The salt keeps equal hashes
apart from all tables and files.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, StringConstraints, ValidationError

from distgen.core.config import Config
from distgen.core.errors import DataError, UsageError, did_you_mean

Scope = Literal["generate", "admin"]
SCOPES: tuple[Scope, ...] = ("generate", "admin")
KEY_PREFIX = "distgen_"
_KEY_BYTES = 32
_MAX_SENT = 256
_MAX_FILE_BYTES = 4 * 1024**2
_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"

Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]+$", max_length=64)]


class Key(Config):
    """What is kept of a key."""

    name: Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
    """Whose it is, or what for."""
    salt: Hex
    sha256: Annotated[Hex, StringConstraints(min_length=64)]
    """Of the salt and the key."""
    scopes: tuple[Scope, ...] = Field(min_length=1)
    """What it opens."""
    per_minute: PositiveInt | None = None
    """Pictures that it gives in a minute, from each replica; None: no limit."""
    created: str
    """When it was made, in UTC."""


class KeyFile(Config):
    """All keys of an endpoint."""

    version: Literal[1] = 1
    keys: tuple[Key, ...] = ()

    def find(self, sent: str) -> Key | None:
        """The key that a client sent, if it is one of these.

        All of them are compared, each in constant time: how long it takes tells nothing.
        """
        found = None
        data = sent[:_MAX_SENT].encode("utf-8", errors="replace")
        for key in self.keys:
            if hmac.compare_digest(_digest(key.salt, data), key.sha256):
                found = key
        return found


def default_path() -> Path:
    """Where keys are unless said otherwise: `$XDG_CONFIG_HOME/distgen/keys.json`, by default below
    `~/.config`.
    """
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "distgen" / "keys.json"


def read(path: Path) -> KeyFile:
    """The keys in a file.

    Raises:
        UsageError: There is no such file, or others than its owner may use it.
        DataError: It is not a file of keys.
    """
    try:
        with path.open("rb") as file:
            _require_private(os.fstat(file.fileno()), path)
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise UsageError(
            "There is no file of keys.",
            where=str(path),
            remedy=f"distgen endpoint keys add NAME --file {path}",
        ) from error
    except OSError as error:
        raise UsageError(
            "The file of keys cannot be read.", where=str(path), cause=str(error)
        ) from error
    try:
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {_MAX_FILE_BYTES} bytes")
        keys = KeyFile.model_validate_json(data)
        names = [key.name for key in keys.keys]
        if len(set(names)) < len(names):
            raise ValueError("two keys have the same name")
    except ValueError as error:
        raise DataError(
            "This is not a file of keys.",
            where=str(path),
            cause=_first_problem(error),
            remedy="put its last good copy back, or move it away and add the keys anew",
        ) from error
    return keys


def add(
    path: Path, name: str, scopes: Sequence[str] = ("generate",), per_minute: int | None = None
) -> str:
    """Make a key, and keep what proves it in a file, which is made where there is none.

    Args:
        path: The file of keys.
        name: Whose it is.
        scopes: What it opens, of `SCOPES`.
        per_minute: Pictures that it gives in a minute, from each replica; None: no limit.

    Returns:
        The key, which nobody can find out from the file later.

    Raises:
        UsageError: There is a key of that name, or the name, a scope or the rate cannot be.
        DataError: The file is not one of keys.
    """
    if not re.fullmatch(_NAME, name):
        raise UsageError(
            f"A key cannot be called {name!r}.",
            remedy="letters, digits, '.', '_', '-' and '@', 64 at most, a letter or digit first",
        )
    for scope in scopes:
        if scope not in SCOPES:
            raise UsageError(
                f"There is no scope {scope!r}.",
                where="--scope",
                remedy=did_you_mean(scope, SCOPES),
            )
    if per_minute is not None and per_minute < 1:
        raise UsageError(f"A rate cannot be {per_minute}.", remedy="1 or more, or none")
    key, salt = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES), secrets.token_hex(16)
    made = Key(
        name=name,
        salt=salt,
        sha256=_digest(salt, key.encode()),
        scopes=tuple(scope for scope in SCOPES if scope in (scopes or ("generate",))),
        per_minute=per_minute,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with _changing(path):
        keys = read(path).keys if path.exists() else ()
        if name in (known.name for known in keys):
            raise UsageError(
                f"There is a key {name!r} already.",
                where=str(path),
                remedy=f"another name, or first: distgen endpoint keys revoke {name}",
            )
        _write(path, KeyFile(keys=(*keys, made)))
    return key


def revoke(path: Path, name: str) -> None:
    """Take a key out of a file.

    Raises:
        UsageError: There is no such key, or no such file.
        DataError: The file is not one of keys.
    """
    with _changing(path):
        keys = read(path).keys
        kept = tuple(key for key in keys if key.name != name)
        if len(kept) == len(keys):
            raise UsageError(
                f"There is no key {name!r}.",
                where=str(path),
                remedy=did_you_mean(name, [key.name for key in keys]),
            )
        _write(path, KeyFile(keys=kept))


def _digest(salt: str, key: bytes) -> str:
    return hashlib.sha256(salt.encode() + key).hexdigest()


def _require_private(status: os.stat_result, path: Path) -> None:
    """A file of ours is ours alone. One that root mounted, as a secret of Kubernetes, may be read
    by the group that it was mounted for; whoever else owned it could change it.
    """
    mounted = status.st_uid == 0 != os.geteuid()
    if not mounted and status.st_uid != os.geteuid():
        raise UsageError(
            "The file of keys is another user's, who could change it.",
            where=str(path),
            remedy=f"a copy of your own: install -m 600 {path} keys.json",
        )
    if stat.S_IMODE(status.st_mode) & (0o027 if mounted else 0o077):
        raise UsageError(
            "Others than its owner may use the file of keys.",
            where=f"{path}, mode {stat.S_IMODE(status.st_mode):04o}",
            remedy=f"chmod 600 {path}",
        )


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[None]:
    """One writer at a time; the folder itself is the lock, so that none is left behind."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, keys: KeyFile) -> None:
    """The whole file or none of it, whenever a reader looks or the power fails."""
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(keys.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _first_problem(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ")
