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
    named = "://" not in text and bool(_STORE_NAME.match(text))
    place = locate(text)
    if (place / "bundle" / MANIFEST).is_file():
        return place / "bundle"
    if (place / MANIFEST).is_file():
        return place
    store = ModelStore(root)
    if named and text.partition("@")[0].partition(":")[0] in store.names():
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


def _nearest(text: str, place: Location, store: ModelStore) -> str:
    folders = [place, *place.list(), *place.parent.list(), *locate("runs").list()]
    runs = [f.url for f in folders if (f / "bundle" / MANIFEST).is_file()]
    here = f"{locate('.')}/"
    known = {*store.names(), *(run.removeprefix(here) for run in runs)}
    if not known:
        return "give a run's folder; `distgen train JOB` makes one"
    return did_you_mean(text, known)
