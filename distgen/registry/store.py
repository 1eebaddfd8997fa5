"""Models by name: immutable versions, and aliases that move between them."""

from __future__ import annotations

import contextlib
import re
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

from distgen.core.errors import DataError, UsageError, did_you_mean
from distgen.core.storage import Location, locate, sha256_of
from distgen.registry import aliases as alias_log
from distgen.registry.archive import read_archive, write_archive
from distgen.registry.bundle import inspect_bundle, load_bundle
from distgen.registry.comparison import refuse_if_worse
from distgen.registry.first_look import look
from distgen.registry.layout import MANIFEST, NAME_PATTERN, parse_manifest, read_checked

CHAMPION = "champion"
CANARY = "canary"
"""The alias of a version on trial: it answers a share of the requests for its model."""
_ALIAS_PATTERN = r"^[a-z][a-z0-9_-]{0,31}$"
_ALIASES = "aliases"
_ATTEMPTS = 20


class Trial(NamedTuple):
    """A version that is tried on a part of a model's requests."""

    version: int
    share: float
    """Of the requests that name the model and no version of it; above 0, at most 1."""


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
        moves = {alias: self.pointer(name, alias) for alias in found}
        return {alias: move.version for alias, move in moves.items() if move is not None}

    def pointer(self, name: str, alias: str = CHAMPION) -> alias_log.Move | None:
        """The move by which an alias came where it is; None where it points nowhere."""
        return alias_log.last(self._alias_folder(name, alias))

    def canary(self, name: str) -> Trial | None:
        """The version on trial beside the champion, if there is one."""
        move = self.pointer(name, CANARY)
        return None if move is None or move.share is None else Trial(move.version, move.share)

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
        share: float | None = None,
        force: bool = False,
    ) -> int:
        """Keep a bundle as a version, point an alias to it, and return the version.

        A bundle that is a version already is not copied again. Where another process moves the
        alias meanwhile, its model is the one to beat. A trial ends when its version becomes the
        champion.

        Args:
            bundle: Where the bundle lies.
            name: Name of the model; by default the one in the bundle.
            alias: Which alias to move.
            share: For `canary`: the share of requests to try it on, above 0 and at most 1.
            force: Skip the comparison with the model that the alias points to, or for `canary`
                the champion.

        Raises:
            DataError: The bundle is damaged.
            UsageError: The model is worse than the one it would replace, or cannot be compared
                with it; its pictures fail the first look; or a name or the share is impossible.
        """
        if (alias == CANARY) != (share is not None) or not 0 < (1 if share is None else share) <= 1:
            raise UsageError(
                f"A share of {share} for the alias {alias!r} makes no sense.",
                cause=f"{CANARY} needs a share of requests above 0 and at most 1, others take none",
                remedy="distgen models promote MODEL --canary 0.1",
            )
        loaded = load_bundle(bundle)
        look(loaded)
        name = name or loaded.name
        log_folder = self._alias_folder(name, alias)
        kept: int | None = None
        for _ in range(_ATTEMPTS):
            moves = alias_log.history(log_folder)
            now = moves[-1] if moves and moves[-1].action != "end" else None
            is_there = now is not None and self._digest(name, now.version) == loaded.digest
            if now is not None and is_there and now.share == share:
                return now.version
            rival = now if alias != CANARY else self.pointer(name)
            if rival is not None and not is_there and not force:
                label = f"{name}:{rival.version} ({CHAMPION if alias == CANARY else alias})"
                theirs = inspect_bundle(self.bundle(name, rival.version)).card
                refuse_if_worse(loaded.card, theirs, label)
            kept = kept or self._keep(bundle, name, loaded.digest)
            try:
                alias_log.compare_and_set(
                    log_folder, kept, "promote", expected_moves=len(moves), share=share
                )
            except alias_log.AliasMovedError:
                continue
            trial = self.canary(name)
            if alias == CHAMPION and trial is not None and trial.version == kept:
                with contextlib.suppress(alias_log.AliasMovedError):  # a new trial has begun
                    self.rollback(name, CANARY)
            return kept
        raise UsageError(
            f"{name}@{alias} was moved by others {_ATTEMPTS} times in a row.",
            remedy="look at `distgen models ls`, then run the command again",
        )

    def rollback(self, name: str, alias: str = CHAMPION) -> int:
        """Point an alias back to the version from before its last promotion; returns that version.

        Of `canary` it ends the trial, and returns the version that was on trial.

        Raises:
            UsageError: There is no such alias, no earlier version, or another process moved the
                alias at the same moment.
        """
        self.versions(name)
        moves = self.history(name, alias)
        if not moves or moves[-1].action == "end":
            self.parse(f"{name}@{alias}")
        folder = self._alias_folder(name, alias)
        if alias == CANARY:
            version = moves[-1].version
            alias_log.compare_and_set(folder, version, "end", expected_moves=len(moves))
            return version
        path = alias_log.stack(moves)
        if len(path) < 2:
            raise UsageError(
                f"{name}@{alias} has no earlier version to go back to.",
                remedy=f"distgen models promote {name}:VERSION --force",
            )
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
