"""Models by name: immutable versions, and aliases that move between them."""

from __future__ import annotations

import re
import shutil
import uuid
from pathlib import Path

from distgen.core.errors import DataError, UsageError, did_you_mean
from distgen.core.storage import Location, locate, sha256_of
from distgen.metrics.card import Card
from distgen.registry import aliases as alias_log
from distgen.registry.archive import read_archive, write_archive
from distgen.registry.bundle import inspect_bundle, load_bundle
from distgen.registry.further_rows import short
from distgen.registry.layout import MANIFEST, NAME_PATTERN, parse_manifest, read_checked

CHAMPION = "champion"
_ALIAS_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"
_ALIASES = "aliases"
_ATTEMPTS = 20


class ModelStore:
    """A folder of models on a disk: `<name>/<version>/` and `<name>/aliases/<alias>/`.

    Versions are numbered 1, 2, 3, ..., appear whole, and never change. Any number of processes may
    use a store at the same time.

    Args:
        root: Path of the store; it need not exist.

    Raises:
        UsageError: The root is in an object store, which has neither exclusive creation nor
            renaming of folders.
    """

    def __init__(self, root: str = "models") -> None:
        # Said before the place is located, for that may ask a network.
        if "://" in root and not root.startswith("file://"):
            raise UsageError(
                f"The model store cannot be kept at {root!r}.",
                cause="aliases move by operations that object stores do not have",
                remedy="use a path on a disk; a bundle itself can be served from anywhere: "
                "distgen serve s3://bucket/run/bundle",
            )
        self.root = Path(locate(root).path)

    def names(self) -> list[str]:
        """Models that have a version, sorted."""
        folders = self.root.iterdir() if self.root.is_dir() else iter(())
        found = (f.name for f in folders if re.fullmatch(NAME_PATTERN, f.name))
        return sorted(name for name in found if self._is_inside(name) and self._numbers(name))

    def versions(self, name: str) -> list[int]:
        """Versions of a model, oldest first.

        Raises:
            UsageError: There is no such model.
        """
        numbers = self._numbers(name)
        if not numbers:
            raise self._unknown(name)
        return numbers

    def aliases(self, name: str) -> dict[str, int]:
        """Where each alias of a model points."""
        folder = self._folder(name) / _ALIASES
        found = sorted(p.name for p in folder.glob("*") if re.fullmatch(_ALIAS_PATTERN, p.name))
        moves = {alias: self.history(name, alias) for alias in found}
        return {alias: log[-1].version for alias, log in moves.items() if log}

    def history(self, name: str, alias: str) -> list[alias_log.Move]:
        """Every move of an alias, oldest first."""
        return alias_log.history(self._alias_folder(name, alias))

    def bundle(self, name: str, version: int) -> Location:
        """The bundle of a version.

        Raises:
            UsageError: There is no such model or version.
        """
        known = self.versions(name)
        if version not in known:
            raise UsageError(
                f"{name} has no version {version}.",
                where=str(self.root),
                remedy=f"versions: {', '.join(map(str, known))}",
            )
        return locate(self._inside(self._folder(name) / str(version)))

    def resolve(self, text: str) -> Location:
        """The bundle that `name`, `name@alias` or `name:version` stands for.

        A bare name is its champion, or its newest version where there is none.

        Raises:
            UsageError: The text is not of that form, or names nothing; the nearest name is told.
        """
        name, version = self.parse(text)
        return self.bundle(name, version)

    def parse(self, text: str) -> tuple[str, int]:
        """Name and version that `name`, `name@alias` or `name:version` stands for."""
        match = re.fullmatch(r"([^@:]*)(?:@([^@:]*)|:([^@:]*))?", text)
        name, alias, number = match.groups() if match else (text, None, None)
        versions = self.versions(name)
        if number is not None:
            if not number.isdecimal() or int(number) not in versions:
                raise UsageError(
                    f"{name} has no version {number!r}.",
                    remedy=f"versions: {', '.join(map(str, versions))}; "
                    f"an alias is written {name}@{CHAMPION}",
                )
            return name, int(number)
        pointers = self.aliases(name)
        if alias is None:
            return name, pointers.get(CHAMPION, versions[-1])
        if alias not in pointers:
            raise UsageError(
                f"{name} has no alias {alias!r}.",
                remedy=did_you_mean(alias, pointers)
                if pointers
                else f"distgen models promote MODEL --alias {alias}",
            )
        return name, pointers[alias]

    def promote(
        self,
        bundle: Location,
        name: str | None = None,
        alias: str = CHAMPION,
        *,
        force: bool = False,
    ) -> int:
        """Keep a bundle as a version, point an alias to it, and return the version.

        A bundle that is a version already is not copied again. Where another process moves the
        alias meanwhile, its model is the one to beat.

        Args:
            bundle: Where the bundle lies.
            name: Name of the model; by default the one in the bundle.
            alias: Which alias to move.
            force: Skip the comparison with the model that the alias points to.

        Raises:
            DataError: The bundle is damaged.
            UsageError: The model is worse than the one it would replace, or cannot be compared
                with it; or a name is impossible.
        """
        loaded = load_bundle(bundle)
        name = name or loaded.name
        log_folder = self._alias_folder(name, alias)
        kept: int | None = None
        for _ in range(_ATTEMPTS):
            moves = alias_log.history(log_folder)
            before = moves[-1].version if moves else None
            if before is not None and self._digest(name, before) == loaded.digest:
                return before
            if before is not None and not force:
                self._refuse_if_worse(loaded.card, name, before, alias)
            kept = kept or self._keep(bundle, name, loaded.digest)
            try:
                alias_log.compare_and_set(log_folder, kept, "promote", expected_moves=len(moves))
            except alias_log.AliasMovedError:
                continue
            return kept
        raise UsageError(
            f"{name}@{alias} was moved by others {_ATTEMPTS} times in a row.",
            remedy="look at `distgen models ls`, then run the command again",
        )

    def rollback(self, name: str, alias: str = CHAMPION) -> int:
        """Point an alias back to the version from before its last promotion; returns that version.

        Raises:
            UsageError: There is no such alias, no earlier version, or another process moved the
                alias at the same moment.
        """
        self.versions(name)
        moves = self.history(name, alias)
        if not moves:
            self.parse(f"{name}@{alias}")
        path = alias_log.stack(moves)
        if len(path) < 2:
            raise UsageError(
                f"{name}@{alias} has no earlier version to go back to.",
                remedy=f"distgen models promote {name}:VERSION --force",
            )
        folder = self._alias_folder(name, alias)
        alias_log.compare_and_set(folder, path[-2], "rollback", expected_moves=len(moves))
        return path[-2]

    def export_archive(self, bundle: Location, path: Path) -> str:
        """Write a bundle as one tar file; returns its digest.

        Raises:
            DataError: The bundle is damaged.
        """
        loaded = load_bundle(bundle)
        write_archive(loaded, path)
        return loaded.digest

    def import_archive(self, path: Path, name: str | None = None) -> tuple[str, int]:
        """Keep the bundle in a tar file as a version; returns name and version. No alias moves.

        Raises:
            UsageError: There is no such file.
            DataError: The file is not one that was exported, or is damaged.
        """
        if not path.is_file():
            raise UsageError(f"There is no file {str(path)!r}.")
        incoming = self.root / f".incoming-{uuid.uuid4().hex[:12]}"
        try:
            incoming.mkdir(parents=True)
            read_archive(path, locate(incoming))
            loaded = load_bundle(locate(incoming))
            name = name or loaded.name
            return name, self._keep(locate(incoming), name, loaded.digest)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _keep(self, bundle: Location, name: str, digest: str) -> int:
        """Copy a bundle to the next free version, unless one with its digest is there."""
        for version in self._numbers(name):
            if self._digest(name, version) == digest:
                return version
        folder = self._folder(name)
        incoming = folder / f".incoming-{uuid.uuid4().hex[:12]}"
        incoming.mkdir(parents=True)
        try:
            _copy(bundle, incoming, digest)
            version = (self._numbers(name) or [0])[-1] + 1
            # A folder cannot be renamed over one that holds files: the name is taken once.
            while not _rename(incoming, folder / str(version)):
                version += 1
            return version
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _refuse_if_worse(self, card: Card | None, name: str, version: int, alias: str) -> None:
        champion = inspect_bundle(self.bundle(name, version)).card
        label = f"{name}:{version} ({alias})"
        force = "or promote it all the same with --force"
        if card is None or champion is None:
            raise UsageError(
                f"The model cannot be compared with {label}: "
                f"{'it' if card is None else label} has no quality card.",
                remedy=f"distgen evaluate RUN --into-bundle, {force}",
            )
        differing = [
            f"{key} {card.yardstick[key]} here, {value} there"
            for key, value in champion.yardstick.items()
            if card.yardstick[key] != value
        ]
        if differing:
            raise UsageError(
                f"The model cannot be compared with {label}: their cards differ in how.",
                cause="; ".join(differing),
                remedy=f"measure it the same way with distgen evaluate RUN --into-bundle, {force}",
            )
        if card.headline > champion.headline:
            by = card.headline - champion.headline
            share = f" ({by / champion.headline:.0%})" if champion.headline > 0 else ""
            raise UsageError(
                f"The model is worse than {label} by {short(by)}{share}: its {card.headline_name} "
                f"is {short(card.headline)}, not {short(champion.headline)} or less.",
                cause=f"measured in {card.extractors[0].name}, {card.samples:,} pictures, "
                f"floor {short(card.extractors[0].floor.frechet_distance)}",
                remedy=f"keep it under another alias with --alias candidate, {force}",
            )

    def _digest(self, name: str, version: int) -> str | None:
        """Digest of a version; None where it is too damaged to have one."""
        try:
            return inspect_bundle(self.bundle(name, version)).digest
        except DataError:
            return None

    def _numbers(self, name: str) -> list[int]:
        folder = self._folder(name)
        if not folder.is_dir():
            return []
        return sorted(
            int(p.name) for p in folder.iterdir() if re.fullmatch(r"[1-9]\d{0,8}", p.name)
        )

    def _folder(self, name: str) -> Path:
        if not re.fullmatch(NAME_PATTERN, name):
            raise UsageError(
                f"{name!r} cannot be the name of a model.",
                remedy="use lower-case letters, digits, dots, dashes and underscores, at most 64",
            )
        return self._inside(self.root / name)

    def _alias_folder(self, name: str, alias: str) -> Path:
        if not re.fullmatch(_ALIAS_PATTERN, alias):
            raise UsageError(
                f"{alias!r} cannot be an alias.",
                remedy="use lower-case letters, digits, dashes and underscores, a letter first",
            )
        return self._inside(self._folder(name) / _ALIASES / alias)

    def _inside(self, path: Path) -> Path:
        """`path`, if no link on the way leads out of the store."""
        if not self._is_inside(path):
            raise UsageError(
                f"{str(path)!r} leads out of the model store.",
                where=str(path.resolve()),
                remedy="replace the link by what it points to",
            )
        return path

    def _is_inside(self, path: str | Path) -> bool:
        return (self.root / path).resolve().is_relative_to(self.root.resolve())

    def _unknown(self, name: str) -> UsageError:
        names = self.names()
        return UsageError(
            f"There is no model {name!r}.",
            where=str(self.root),
            remedy=did_you_mean(name, names)
            if names
            else "the store is empty: distgen models promote RUN",
        )


def _copy(bundle: Location, folder: Path, digest: str) -> None:
    """Copy the bundle with this digest, checked once more, for it may have changed meanwhile."""
    place = bundle / MANIFEST
    data = place.read_bytes() if place.is_file() else b""
    if sha256_of(data) != digest:
        raise DataError(
            "The bundle was written anew while it was read.",
            where=str(bundle),
            cause="a training that goes on, or `distgen evaluate --into-bundle`",
            remedy="run the command again",
        )
    manifest, target = parse_manifest(data, place), locate(folder)
    for name in manifest.files:
        (target / name).write_bytes(read_checked(bundle, name, manifest))
    (target / MANIFEST).write_bytes(data)
    for path in folder.iterdir():
        path.chmod(0o444)


def _rename(source: Path, target: Path) -> bool:
    """Rename a folder; False where the target is taken."""
    try:
        source.rename(target)
    except OSError:
        if target.exists():
            return False
        raise
    return True
