"""Ray's token: made before Ray would make it, readable by its owner only, and always in force."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from distgen.core.errors import UsageError
from distgen.core.finding import Finding, ok, problem

AUTH_MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105  (the variable's name, not a token)
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"  # noqa: S105


def token_file() -> Path:
    """Where Ray looks for the token: `RAY_AUTH_TOKEN_PATH`, or `~/.ray/auth_token`."""
    given = os.environ.get(TOKEN_PATH)
    return Path(given) if given else Path.home() / ".ray" / "auth_token"


def ensure_token() -> None:
    """A token that every process of this user shares: the one that exists, or a new one.

    Ray would write the file with whatever mode the umask allows; anyone who can read it may run
    code as this user, so it is created with mode 0600, and an older file is tightened.

    Raises:
        UsageError: `RAY_AUTH_TOKEN_PATH` names a file that is missing or empty, or the file
            belongs to someone else.
    """
    if os.environ.get(TOKEN):
        return
    path = token_file()
    if not path.exists():
        if os.environ.get(TOKEN_PATH):
            raise UsageError(
                "The file with the cluster's token does not exist.",
                where=f"{TOKEN_PATH}={path}",
                remedy="copy the token file from the machine where the cluster was started",
            )
        _create(path)
    if not path.read_text().strip():
        raise UsageError(
            "The file with the cluster's token is empty.",
            where=str(path),
            remedy=f"remove it, and distgen makes a new one: rm {path}",
        )
    if path.stat().st_mode & 0o077:
        try:
            path.chmod(0o600)
        except OSError as error:
            raise UsageError(
                "The cluster's token can be read by other users, and its mode cannot be changed.",
                where=str(path),
                cause=str(error),
                remedy=f"chmod 600 {path}",
            ) from error


def read_token() -> str | None:
    """The token that this process would present, or None where there is none."""
    given = os.environ.get(TOKEN)
    if given:
        return given
    path = token_file()
    return path.read_text().strip() if path.is_file() else None


def look_at_token() -> Finding:
    """Whether this process has a token that nobody but its user can read; nothing is changed."""
    if os.environ.get(TOKEN):
        return ok("token", f"from the environment ({TOKEN})")
    path = token_file()
    again = "copy ~/.ray/auth_token from the cluster's head node, mode 0600"
    try:
        about, text = path.stat(), path.read_text()
    except FileNotFoundError:
        if os.environ.get(TOKEN_PATH):
            return problem("token", f"{path}, which {TOKEN_PATH} names, is not there", again)
        return ok("token", "none yet: one is made when it is needed, for its user only")
    except OSError as error:
        return problem("token", f"{path} cannot be read: {error.strerror}", again)
    if not text.strip():
        return problem("token", f"{path} is empty", again)
    if about.st_uid != os.getuid():
        return problem("token", f"{path} belongs to another user", again)
    if about.st_mode & 0o077:
        mode = f"{about.st_mode & 0o777:04o}"
        seen = f"{path} has mode {mode}: other users can run code as this one"
        return problem("token", seen, f"chmod 600 {path}")
    return ok("token", f"{path}, for its user only")


def present_token() -> None:
    """Make Ray in this process present its token from now on.

    Ray reads its settings once, when its library is loaded; here they are read again. Without
    this an explicit address is contacted without the token, and a cluster that asks for one is
    unreachable for no visible reason.
    """
    if os.environ.get(AUTH_MODE):
        return
    os.environ[AUTH_MODE] = "token"
    # The only door to Ray's cached settings (2.60).
    from ray._raylet import Config  # type: ignore[attr-defined]

    Config.initialize("")


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process of this user was faster; theirs is as good
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
