"""The JSON Schema of experiment files, for editors: every searched leaf may be a dimension."""

from __future__ import annotations

from typing import Any

from pdo_search.config.model import StudentConfig
from pdo_search.config.recipe import Recipe
from pdo_search.config.schema import Experiment

__all__ = ["experiment_schema"]

NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
OPTIONS = {"step": {"type": "number"}, "log": {"type": "boolean"}}
DIMENSION: dict[str, Any] = {
    "description": "A search dimension: {int: [low, high]}, {float: [low, high]} with step or log,"
    " or {choice: [...]}; bounds are inclusive.",
    "oneOf": [
        {
            "type": "object",
            "required": [kind],
            "additionalProperties": False,
            "properties": {kind: NUMBERS, **OPTIONS},
        }
        for kind in ("int", "float")
    ]
    + [
        {
            "type": "object",
            "required": ["choice"],
            "additionalProperties": False,
            "properties": {"choice": {"type": "array", "minItems": 1}},
        }
    ],
}


def experiment_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an experiment file."""
    schema = Experiment.model_json_schema()
    definitions = schema["$defs"]
    definitions["Dimension"] = DIMENSION
    for name, model in (("trial", Recipe), ("student", StudentConfig)):
        searched = model.model_json_schema()
        for title, section in searched.pop("$defs", {}).items():
            definitions[title] = _searchable(section)
        definitions[model.__name__] = _searchable(searched)
        schema["properties"][name] = {"$ref": f"#/$defs/{model.__name__}"}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


def _searchable(section: dict[str, Any]) -> dict[str, Any]:
    """A section whose leaves may be dimensions; sections below it stay sections."""
    properties = {}
    for key, leaf in section.get("properties", {}).items():
        options = leaf.get("anyOf", ())
        holds_section = any("$ref" in option for option in options)
        holds_number = any(option.get("type") == "number" for option in options)
        is_section = "$ref" in leaf or (holds_section and not holds_number)
        if is_section or key in ("args", "method"):
            properties[key] = leaf
            continue
        about = {k: leaf[k] for k in ("description", "default") if k in leaf}
        value = {k: v for k, v in leaf.items() if k not in about}
        properties[key] = {**about, "anyOf": [value, {"$ref": "#/$defs/Dimension"}]}
    return {**section, "properties": properties}
