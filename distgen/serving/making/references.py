"""What is to be served: bundles that stay what they are, and aliases that are followed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, locate
from distgen.registry.aliases import stack
from distgen.registry.bundle import inspect_bundle
from distgen.registry.layout import NAME_PATTERN
from distgen.registry.resolve import is_store_name, resolve_model
from distgen.registry.store import CANARY, CHAMPION, ModelStore

_NAMED = re.compile(rf"({NAME_PATTERN[1:-1]})=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Shape:
    """What clients build upon, and no swap may change."""

    spec: ImageSpec
    num_classes: int
    """Classes that can be asked for."""

    def __str__(self) -> str:
        classes = f"{self.num_classes} classes" if self.num_classes else "no classes"
        return f"{self.spec.samples_text} with {classes}"


@dataclass(frozen=True)
class Edition:
    """One bundle that a model's requests may go to."""

    url: str
    version: int | None = None
    """Its number in the store, where it comes from one."""

    @property
    def location(self) -> Location:
        """The bundle's folder."""
        return locate(self.url)


@dataclass(frozen=True)
class Standing:
    """What a reference points to at one moment."""

    champion: Edition
    trial: Edition | None = None
    share: float = 0.0
    """Of the requests that leave the choice open: how many go to the trial."""


@dataclass(frozen=True)
class Fixed:
    """A bundle that stays what it is."""

    name: str
    """What clients call it."""
    edition: Edition
    shape: Shape | None = None
    """What whoever deploys it has seen; None: whatever it is when it is first loaded."""

    alias: str | None = None
    follows: bool = False

    def standing(self) -> Standing:
        """What is to be served now."""
        return Standing(self.edition)

    def earlier(self) -> list[Edition]:
        """What was served before; nothing."""
        return []


@dataclass(frozen=True)
class Followed:
    """An alias of the store, whose moves are followed; beside the champion also a trial."""

    name: str
    model: str
    """Its name in the store."""
    root: str
    """Absolute path of the store."""
    alias: str | None = CHAMPION
    """None: the newest version, of a model without a champion, until it has one."""
    shape: Shape | None = None

    follows: bool = True

    def standing(self) -> Standing:
        """What is to be served now.

        Raises:
            DistgenError: The alias or the version that it names is gone or damaged.
        """
        store = ModelStore(self.root)
        move = store.pointer(self.model, self.alias or CHAMPION)
        if move is None:
            return Standing(self._edition(store, store.parse(self._text)[1]))
        champion = self._edition(store, move.version)
        trial = store.canary(self.model) if self.alias in (None, CHAMPION) else None
        if trial is None or trial.version == move.version:
            return Standing(champion)
        return Standing(champion, self._edition(store, trial.version), trial.share)

    def earlier(self) -> list[Edition]:
        """What a rollback would bring back, the last first."""
        store = ModelStore(self.root)
        versions = stack(store.history(self.model, self.alias or CHAMPION))[:-1]
        known = store.versions(self.model)
        return [self._edition(store, version) for version in reversed(versions) if version in known]

    @property
    def _text(self) -> str:
        return self.model if self.alias is None else f"{self.model}@{self.alias}"

    def _edition(self, store: ModelStore, version: int) -> Edition:
        return Edition(store.bundle(self.model, version).url, version)


Reference = Fixed | Followed


def references(models: Sequence[str | Location], root: str = "models") -> tuple[Reference, ...]:
    """What each MODEL of a command line stands for.

    Args:
        models: Each a bundle's place, or as text `MODEL` or `NAME=MODEL`, where MODEL is a run or a
            bundle (as path or URL), `name`, `name@alias` or `name:version`. A name or an alias is
            followed, a version and a place are not.
        root: Path of the model store.

    Raises:
        UsageError: There is no such model, or two of them would have the same name.
        DataError: A bundle is damaged.
    """
    if not models:
        raise UsageError("No model is named.", remedy="distgen serve MODEL")
    found: list[Reference] = []
    for model in models:
        reference = _reference(model, root)
        others = [other.name for other in found]
        if reference.name in others and isinstance(model, str) and "=" not in model:
            reference = replace(reference, name=_longer_name(reference))
        if reference.name in others:
            raise UsageError(
                f"Two models would be called {reference.name!r}.",
                where=str(model),
                remedy=f"give one another name: {_base(reference.name)}-2=MODEL",
            )
        found.append(reference)
    return tuple(found)


def split_name(model: str) -> tuple[str | None, str]:
    """`NAME=MODEL` in two; the name is None where only MODEL is given."""
    named = _NAMED.fullmatch(model)
    return (named[1], named[2]) if named else (None, model)


def _reference(model: str | Location, root: str) -> Reference:
    if isinstance(model, Location):
        return Fixed(inspect_bundle(model).name, Edition(model.url))
    name, text = split_name(model)
    place = resolve_model(text, root)
    if not is_store_name(text, root):
        return Fixed(name or inspect_bundle(place).name, Edition(place.url))
    store = ModelStore(root)
    kept, version = store.parse(text)
    if ":" in text:
        return Fixed(name or kept, Edition(place.url, version))
    has_champion = store.pointer(kept) is not None
    alias = text.partition("@")[2] or (CHAMPION if has_champion else None)
    return Followed(name or kept, kept, str(Path(locate(root).path).resolve()), alias)


def _longer_name(reference: Reference) -> str:
    """The name of a further edition of a model: with its version or alias."""
    if isinstance(reference, Fixed):
        version = reference.edition.version
        return reference.name if version is None else f"{reference.name}:{version}"
    return reference.name if reference.alias is None else f"{reference.name}@{reference.alias}"


def names_of(reference: Reference, standing: Standing) -> dict[str, Edition | None]:
    """All names that clients may use, and what each means; None: the choice is left open."""
    names: dict[str, Edition | None] = {reference.name: None}
    base = _base(reference.name)
    if reference.follows and reference.alias is not None:
        names.setdefault(f"{base}@{reference.alias}", standing.champion)
    if standing.trial is not None:
        names[f"{base}@{CANARY}"] = standing.trial
    for edition in (standing.champion, standing.trial):
        if edition is not None and edition.version is not None:
            names.setdefault(f"{base}:{edition.version}", edition)
    return names


def _base(name: str) -> str:
    return re.split("[@:]", name)[0]
