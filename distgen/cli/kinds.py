"""The kinds of job file, and how one is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distgen.core.config import Config, override, parse, read_job_file
from distgen.core.errors import UsageError, did_you_mean

KINDS = ("train", "tune", "serve")


def schema_of(kind: str) -> type[Config]:
    """The typed model of a job kind.

    Raises:
        UsageError: There is no such kind.
    """
    if kind == "train":
        from distgen.training.job import TrainJob

        return TrainJob
    if kind == "tune":
        from distgen.tune.job import TuneJob

        return TuneJob
    if kind == "serve":
        from distgen.serving.job import ServeJob

        return ServeJob
    raise UsageError(f"There is no job kind {kind!r}.", remedy=did_you_mean(kind, KINDS))


def read_job(path: str, overrides: Sequence[str], kind: str | None = None) -> Any:
    """A job file with its overrides, typed by its own `kind`.

    Raises:
        UsageError: The file is missing or wrong, or is not of the wanted `kind`.
    """
    return parse_job(override(read_job_file(path), overrides), path, kind)


def parse_job(raw: dict[str, Any], path: str, kind: str | None = None) -> Any:
    """What was read of a job file, typed by its own `kind`; `path` is named in errors.

    Raises:
        UsageError: It is wrong, or is not of the wanted `kind`.
    """
    found = str(raw.get("kind", "train"))
    if kind is not None and found != kind:
        raise UsageError(
            f"This is a job file of kind {found!r}, not {kind!r}.",
            where=path,
            remedy=f"distgen {found} {path}" if found in KINDS else did_you_mean(found, KINDS),
        )
    return parse(schema_of(found), raw, path)
