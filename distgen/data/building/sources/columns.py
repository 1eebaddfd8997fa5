"""Which columns of a Parquet file are the pictures and their classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from distgen.core.errors import UsageError, did_you_mean

LABEL_NAMES = ("label", "class", "fine_label", "target", "category", "cls")
"""Names by which a column of classes is known, in the order in which they are tried."""

_MOST_SHOWN = 12


@dataclass(frozen=True)
class Columns:
    """The columns of one source."""

    image: str
    label: str | None
    names: tuple[str, ...] = ()
    """Class names in label order, where the file tells them."""


def find_columns(schema: pa.Schema, where: str, image: str | None, label: str | None) -> Columns:
    """The columns that are wanted, or else those that can be told.

    Pictures: the only column of bytes, or of structs with a field `bytes` as Hugging Face's
    `datasets` writes them. Classes: the first of `LABEL_NAMES` that is there and holds integers or
    texts, else the only column that `datasets` calls a ClassLabel, else none.

    Args:
        schema: Of the file, with its metadata.
        where: What errors call the file.
        image: Name of the column of pictures; None: found by itself.
        label: Name of the column of classes; None: found by itself.

    Raises:
        UsageError: A column is not there or not of its kind, or none or several could be meant.
    """
    features = _features(schema.metadata)
    chosen = _label(schema, where, label, features)
    return Columns(_image(schema, where, image), chosen, _names(features, chosen))


def holds_pictures(kind: pa.DataType) -> bool:
    """Whether values of this type may be encoded pictures."""
    if pa.types.is_struct(kind):
        return any(each.name == "bytes" and _is_bytes(each.type) for each in kind)
    return _is_bytes(kind)


def holds_classes(kind: pa.DataType) -> bool:
    """Whether values of this type may be classes."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(kind) for is_kind in (pa.types.is_integer, pa.types.is_boolean, *texts))


def _is_bytes(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_kind(kind) for is_kind in (*kinds, pa.types.is_binary_view))


def _image(schema: pa.Schema, where: str, wanted: str | None) -> str:
    candidates: list[str] = [each.name for each in schema if holds_pictures(each.type)]
    if wanted is not None:
        _check_there(schema, where, "--image-column", wanted, candidates)
        if wanted not in candidates:
            raise UsageError(
                f"The column {wanted!r} holds no pictures.",
                where=where,
                cause=f"its type is {schema.field(wanted).type}; pictures are bytes, or structs "
                "with a field 'bytes'",
                remedy=f"--image-column {candidates[0]}" if candidates else None,
            )
        return wanted
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UsageError(
            f"{len(candidates)} columns could be the pictures: {_listed(candidates)}.",
            where=where,
            remedy=f"name one: --image-column {candidates[0]}",
        )
    columns = [f"{each.name} ({each.type})" for each in schema]
    raise UsageError(
        "No column of this Parquet file holds pictures.",
        where=where,
        cause="pictures are bytes, or structs with a field 'bytes'; its columns are "
        f"{_listed(columns) or 'none'}",
        remedy="a Parquet file with encoded pictures in it, not with their paths or pixels",
    )


def _label(
    schema: pa.Schema, where: str, wanted: str | None, features: Mapping[str, Any]
) -> str | None:
    candidates = [each.name for each in schema if holds_classes(each.type)]
    if wanted is not None:
        _check_there(schema, where, "--label-column", wanted, candidates)
        if wanted not in candidates:
            raise UsageError(
                f"The column {wanted!r} holds no classes.",
                where=where,
                cause=f"its type is {schema.field(wanted).type}; classes are integers or texts",
            )
        return wanted
    known = [name for name in LABEL_NAMES if name in candidates]
    told = [name for name in candidates if _class_names(features.get(name))]
    if known:
        return known[0]
    return told[0] if len(told) == 1 else None


def _check_there(
    schema: pa.Schema, where: str, option: str, wanted: str, choices: Sequence[str]
) -> None:
    if wanted not in schema.names:
        raise UsageError(
            f"There is no column {wanted!r} ({option}).",
            where=where,
            remedy=did_you_mean(wanted, choices or schema.names),
        )


def _features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """What Hugging Face's `datasets` wrote about the columns."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _names(features: Mapping[str, Any], label: str | None) -> tuple[str, ...]:
    return _class_names(features.get(label)) if label is not None else ()


def _class_names(feature: object) -> tuple[str, ...]:
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_SHOWN]) + (", ..." if len(names) > _MOST_SHOWN else "")
