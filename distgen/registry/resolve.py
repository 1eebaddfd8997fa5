"""MODEL on a command line: a run, a bundle, or a name in the store."""

from __future__ import annotations

import re

from distgen.core.errors import UsageError, did_you_mean
from distgen.core.storage import Location, locate
from distgen.registry.layout import MANIFEST
from distgen.registry.store import ModelStore

_STORE_NAME = re.compile(r"^[^/\\~.][^/\\]*$")


def resolve_model(text: str, root: str = "models") -> Location:
    """The bundle that MODEL stands for; it has not been checked.

    Args:
        text: A run's folder, a bundle's folder (both as path or URL), `name`, `name@alias` or
            `name:version`. A folder with a bundle in it goes before a name.
        root: Path of the model store.

    Raises:
        UsageError: Nothing of that name is there, or a run has no bundle yet; the nearest names
            are told.
    """
    place = locate(text)
    if (found := bundle_in(place)) is not None:
        return found
    store = ModelStore(root)
    if _is_in(store, text):
        return store.resolve(text)
    if (place / "job.yaml").is_file():
        raise UsageError(
            f"The run {text!r} has no bundle yet.",
            where=str(place),
            cause="it has not reached its length",
            remedy=f"distgen train {place / 'job.yaml'}",
        )
    if place.is_dir():
        raise UsageError(
            f"The folder {text!r} holds no model.",
            where=str(place),
            cause=f"there is neither {MANIFEST} nor bundle/{MANIFEST} in it",
            remedy=_nearest(text, place, store),
        )
    raise UsageError(f"There is no model {text!r}.", remedy=_nearest(text, place, store))


def is_store_name(text: str, root: str = "models") -> bool:
    """Whether MODEL is the name of something in the store, and not a run or a bundle."""
    return bundle_in(locate(text)) is None and _is_in(ModelStore(root), text)


def bundle_in(place: Location) -> Location | None:
    """The bundle of a run's folder, or the bundle that the place itself is; None: there is none."""
    found = (folder for folder in (place / "bundle", place) if (folder / MANIFEST).is_file())
    return next(found, None)


def _is_in(store: ModelStore, text: str) -> bool:
    named = "://" not in text and bool(_STORE_NAME.match(text))
    return named and re.split("[@:]", text)[0] in store.names()


def _nearest(text: str, place: Location, store: ModelStore) -> str:
    folders = [place, *place.list(), *place.parent.list(), *locate("runs").list()]
    runs = [f.url for f in folders if (f / "bundle" / MANIFEST).is_file()]
    here = f"{locate('.')}/"
    known = {*store.names(), *(run.removeprefix(here) for run in runs)}
    if not known:
        return "give a run's folder; `distgen train JOB` makes one"
    return did_you_mean(text, known)
