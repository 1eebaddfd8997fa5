"""Bodies of requests as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def described(model: type[BaseModel]) -> dict[str, Any]:
    """What the document says of a route that takes such a body, for `openapi_extra=`."""
    content = {"application/json": {"schema": inlined(model.model_json_schema())}}
    return {"requestBody": {"required": True, "content": content}}


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema with its definitions put where they are used, which may stand anywhere.

    References in it count from the root of the document that it becomes a part of.
    """
    definitions = schema.get("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(each) for each in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            rest = {name: each for name, each in part.items() if name != "$ref"}
            return resolve(definitions[part["$ref"].rpartition("/")[2]] | rest)
        return {name: resolve(each) for name, each in part.items() if name != "$defs"}

    resolved: dict[str, Any] = resolve(schema)
    return resolved
