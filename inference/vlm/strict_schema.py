"""JSON Schemas as OpenAI's strict mode wants them: every object closed, every property required, at every depth."""

from __future__ import annotations

from typing import Any

# What strict mode knows, and fine-tuned models and some servers do not.
_BOUNDS = frozenset({"pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_LENGTHS = frozenset({"minItems", "maxItems"})  # of lists: the same
_NEVER = frozenset(
    {"minLength", "maxLength", "minProperties", "maxProperties", "patternProperties", "propertyNames"}
    | {"uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties"}
)


def strict_schema(schema: dict[str, Any], bare: bool = False) -> dict[str, Any] | None:
    """The schema in strict form, a copy; None where it has none: an object of any properties, or whose root is none.

    A property that may be left out becomes one that may be null. bare: without bounds of numbers, texts and lists.
    Source: OpenAI's guide to structured outputs, "supported schemas".
    """
    if schema.get("type") != "object":
        return None
    try:
        return _strict(schema, _NEVER | _BOUNDS | _LENGTHS if bare else _NEVER)
    except _OpenObjectError:
        return None


class _OpenObjectError(Exception):
    """An object that says not which properties it has."""


def _strict(schema: dict[str, Any], dropped: frozenset[str]) -> dict[str, Any]:
    plain = {key: value for key, value in schema.items() if key not in dropped}
    for key in ("anyOf", "prefixItems"):
        if key in plain:
            plain[key] = [_strict(one, dropped) for one in plain[key]]
    if isinstance(plain.get("items"), dict):
        plain["items"] = _strict(plain["items"], dropped)
    for key in ("$defs", "definitions"):
        if key in plain:
            plain[key] = {name: _strict(one, dropped) for name, one in plain[key].items()}
    kind = plain.get("type")
    if "properties" not in plain:
        if kind == "object" or (isinstance(kind, list) and "object" in kind):
            raise _OpenObjectError
        return plain
    required = plain.get("required", [])
    plain["properties"] = {
        name: _strict(one, dropped) if name in required else _or_null(_strict(one, dropped))
        for name, one in plain["properties"].items()
    }
    return plain | {"required": list(plain["properties"]), "additionalProperties": False}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}
