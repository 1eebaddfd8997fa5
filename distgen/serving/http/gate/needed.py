"""Where an endpoint must have keys."""

from __future__ import annotations

from pathlib import Path

from distgen.core.errors import UsageError
from distgen.core.ports import is_loopback
from distgen.serving.http.gate.keyfile import read


def require_keys(host: str, keys: str | None) -> str | None:
    """The file of keys of an endpoint, as a path that does not depend on the current folder.

    Args:
        host: Address to listen on.
        keys: The file, if one was given.

    Raises:
        UsageError: Others than this machine would reach the endpoint, and there is no key; or the
            file is missing, without keys, or open to other users.
        DataError: It is not a file of keys.
    """
    if keys is None:
        if is_loopback(host):
            return None
        raise UsageError(
            f"Whoever reaches {host} could use the endpoint.",
            where="--host",
            cause="there are no keys, and that address is not this machine's own loopback",
            remedy="distgen endpoint keys add NAME, and then --keys FILE",
        )
    path = Path(keys).expanduser().absolute()
    if not read(path).keys:
        raise UsageError(
            "The file of keys holds none, so that nobody could use the endpoint.",
            where=str(path),
            remedy=f"distgen endpoint keys add NAME --file {path}",
        )
    return str(path)
