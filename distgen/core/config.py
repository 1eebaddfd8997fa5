"""Job files: YAML in, frozen typed models out, every mistake named before anything starts."""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Tag, ValidationError, field_validator

from distgen.core.errors import UsageError, did_you_mean
from distgen.core.secrets import shielded

MAX_JOB_FILE_BYTES = 1 << 20
_LARGEST = 1e30
"""Far beyond it float32 ends, and with it what networks are computed in."""

# The loader lets through what Python says of values that only look right (a 99th of May, `!!int x`)
# and of nesting without end.
_YAML_ERRORS = (yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError)

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every config: frozen, and a key that nobody reads is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    @field_validator("*")
    @classmethod
    def _within_float32(cls, value: Any) -> Any:
        if isinstance(value, float) and abs(value) > _LARGEST:
            raise ValueError(f"at most {_LARGEST:g} either way")
        return value


class _Loader(yaml.SafeLoader):
    """SafeLoader that also refuses aliases (expansion bombs) and repeated keys (lost settings)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                None, None, "aliases are not allowed in a job file", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | None):
                problem = f"{key!r} cannot be a key"
            elif key in seen:
                problem = f"key {key!r} is given twice"
            else:
                seen.add(key)
                continue
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """A mapping from YAML text.

    Raises:
        UsageError: The text is not YAML, is not a mapping, or uses tags, aliases or a key twice.
    """
    value = _load_yaml(
        text, "This file is not valid YAML.", where=source, remedy="distgen config schema train"
    )
    if not isinstance(value, dict):
        raise UsageError(
            "A job file is a mapping of keys to values.",
            where=source,
            cause=f"the file holds {type(value).__name__}",
            remedy="start from one of the files in jobs/",
        )
    return value


def _load_yaml(text: str, refusal: str, **parts: str) -> Any:
    try:
        # The loader derives from SafeLoader: plain data only.
        return yaml.load(text, Loader=_Loader)  # noqa: S506
    except _YAML_ERRORS as error:
        raise UsageError(refusal, cause=" ".join(str(error).split()), **parts) from error


def read_job_file(path: str | Path) -> dict[str, Any]:
    """The raw mapping of a job file.

    Raises:
        UsageError: There is no such file, it is too large, or it is not a YAML mapping.
    """
    path = Path(path)
    if not path.is_file():
        siblings = (
            [str(p) for p in sorted(path.parent.glob("*.yaml"))] if path.parent.is_dir() else []
        )
        remedy = did_you_mean(str(path), siblings) if siblings else "give the path of a .yaml file"
        raise UsageError(f"There is no job file {str(path)!r}.", remedy=remedy)
    if path.stat().st_size > MAX_JOB_FILE_BYTES:
        raise UsageError(
            f"The job file is larger than {MAX_JOB_FILE_BYTES} bytes.", where=str(path)
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError("The job file is not UTF-8 text.", where=str(path)) from error
    return parse_yaml(text, str(path))


def override(mapping: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of `mapping` with `section.key=value` assignments applied; values are YAML.

    Raises:
        UsageError: An assignment has no `=`, an empty key, or reaches into a plain value.
    """
    result = copy.deepcopy(dict(mapping))
    for assignment in assignments:
        dotted, separator, text = assignment.partition("=")
        keys = dotted.strip().split(".")
        if not separator or not all(keys):
            raise UsageError(
                f"{assignment!r} is not an override.",
                remedy="write section.key=value, for example training.images=100000",
            )
        refusal = f"The value of {dotted!r} is not valid YAML: {text[:80]!r}."
        set_dotted(result, dotted.strip(), _load_yaml(text, refusal))
    return result


def set_dotted(mapping: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` inside nested dicts, making the dicts on the way.

    Raises:
        UsageError: A key on the way holds a plain value.
    """
    *parents, last = dotted.split(".")
    place = mapping
    for key in parents:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise UsageError(f"{dotted!r} cannot be set: {key!r} is a value, not a section.")
    place[last] = value


def parse(schema: type[C], mapping: Mapping[str, Any], source: str) -> C:
    """A typed config from a raw mapping.

    Raises:
        UsageError: One line per field that is unknown, missing or impossible, each with the value
            that was given and, for a misspelt name, the nearest that exists.
    """
    try:
        return schema.model_validate(mapping)
    except ValidationError as error:
        problems = [_explain(schema, dict(item)) for item in error.errors(include_url=False)]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UsageError(
            f"{count} in this {_kind(schema)}:\n" + "\n".join(f"    {p}" for p in problems),
            where=source,
            remedy=f"distgen config schema {_kind_word(schema)}".rstrip(),
        ) from error


def dump_yaml(config: Config) -> str:
    """A config as a job file that `parse` reads back to the same config."""
    return to_yaml(config.model_dump(mode="json"))


def to_yaml(plain: Any) -> str:
    """Plain data as YAML, its keys in their order."""
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping of dotted keys to plain values."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    items = [flatten(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in value.items()]
    return {key: leaf for item in items for key, leaf in item.items()}


class SchemaLine(typing.NamedTuple):
    """One key of a job file, as a person reads about it."""

    depth: int
    key: str
    type: str
    default: str
    help: str


def describe(schema: type[Config], depth: int = 0) -> list[SchemaLine]:
    """Every key of `schema` in order, sections followed by what they hold."""
    lines: list[SchemaLine] = []
    for key, field in schema.model_fields.items():
        sections = _configs_in(field.annotation)
        # A number that may also be a section has the number's type and default.
        plain = _plain_forms(field.annotation) if sections else []
        hidden = field.is_required() or (sections and not plain)
        default = "" if hidden else _plain(field.default)
        kind = " or ".join([*plain, "section"]) if sections else _type_name(field.annotation)
        lines.append(SchemaLine(depth, key, kind, default, field.description or ""))
        for section in sections:
            inner = depth + 1
            if len(sections) > 1:
                summary = (section.__doc__ or "").partition("\n")[0]
                lines.append(SchemaLine(inner, f"({_tag(section)})", "choice", "", summary))
                inner += 1
            lines += describe(section, inner)
    return lines


def _plain_forms(annotation: Any) -> list[str]:
    """Types of a union's parts that are no sections."""
    parts = typing.get_args(annotation)
    known = [part for part in parts if not _configs_in(part) and part is not type(None)]
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return [_type_name(part) for part in known] if is_union else []


def _tag(section: type[Config]) -> str:
    for field in section.model_fields.values():
        if typing.get_origin(field.annotation) is typing.Literal:
            return str(typing.get_args(field.annotation)[0])
    return section.__name__


def _plain(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is typing.Literal:
        return " | ".join(str(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(part) for part in arguments)
    if origin in (tuple, list):
        return "list of " + _type_name(arguments[0])
    if annotation is type(None):
        return "null"
    return getattr(annotation, "__name__", str(annotation))


def _kind_word(schema: type[Config]) -> str:
    field = schema.model_fields.get("kind")
    choices = typing.get_args(field.annotation) if field else ()
    return str(choices[0]) if choices else ""


def _kind(schema: type[Config]) -> str:
    word = _kind_word(schema)
    return f"{word} job" if word else schema.__name__


def _explain(schema: type[Config], error: dict[str, Any]) -> str:
    loc: tuple[str | int, ...] = error["loc"]
    dotted, section = _resolve(schema, loc)
    given = f" (given: {shielded(repr(error['input']))})" if error["type"] != "missing" else ""
    if error["type"] == "extra_forbidden" and section is not None:
        return f"{dotted}: there is no such key; {did_you_mean(str(loc[-1]), section.model_fields)}"
    if error["type"] == "missing":
        return f"{dotted}: this key is required"
    if error["type"] == "union_tag_not_found":
        return f"{dotted}: the key {error['ctx']['discriminator']} is required here"
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        key = f"{dotted}.{context['discriminator'].strip(chr(39))}"
        return _unknown(key, context["tag"], context["expected_tags"])
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        return _unknown(dotted, error["input"], error["ctx"]["expected"])
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{dotted or _kind(schema)}: {message}{given if dotted else ''}"


def _unknown(dotted: str, value: str, expected: str) -> str:
    choices = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    return f"{dotted}: {value!r} is unknown; {did_you_mean(value, choices)}"


def _resolve(schema: type[Config], loc: tuple[str | int, ...]) -> tuple[str, type[Config] | None]:
    """The dotted key a user wrote, without union tags, and the config class that holds it."""
    place: type[Config] | None = schema
    holder: type[Config] | None = schema
    options: list[type[Config]] = []
    forms: set[str] = set()
    shown: list[str] = []
    for step in loc:
        if step in forms:
            continue
        tagged = [option for option in options if _has_tag(option, str(step))]
        if place is None and tagged:
            place = holder = tagged[0]
            options = []
            continue
        shown.append(str(step))
        holder = place
        field = place.model_fields.get(str(step)) if place else None
        options = _configs_in(field.annotation) if field else []
        forms = _tags_in(field.annotation) if field else forms
        place = options[0] if len(options) == 1 else None
    return ".".join(shown), holder


def _tags_in(annotation: Any) -> set[str]:
    """What the forms of a value are called (`pydantic.Tag`): steps that no user wrote."""
    own = {item.tag for item in getattr(annotation, "__metadata__", ()) if isinstance(item, Tag)}
    return own.union(*map(_tags_in, typing.get_args(annotation)))


def _has_tag(option: type[Config], tag: str) -> bool:
    return any(
        tag in typing.get_args(field.annotation)
        for field in option.model_fields.values()
        if typing.get_origin(field.annotation) is typing.Literal
    )


def _configs_in(annotation: Any) -> list[type[Config]]:
    origin = typing.get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return [c for part in typing.get_args(annotation) for c in _configs_in(part)]
    return []
