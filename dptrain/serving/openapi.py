"""What the OpenAPI document says beyond what the routes say by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from dptrain.serving.model import ServedModel

_ERROR = {
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
        }
    }
}
_REFUSALS = {
    "400": "The body is no JSON or PNG.",
    "401": "No valid key was sent.",
    "403": "The key lacks the scope, or is locked.",
    "408": "The body came too slowly.",
    "413": "The body, or the number of records, is too large.",
    "415": "The media type is not read.",
    "422": "The inputs are not as declared: schema, type, bounds.",
    "429": "A rate or a budget is spent.",
    "503": "Too many requests wait.",
}

# Of the route /v1/predict, which reads its body itself: bounded, before anything is parsed.
PREDICT: dict[str, Any] = {
    "security": [{"key": []}],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "inputs": {"description": "arrays (N, ...) as the model takes them, in bounds"},
                        "records": {
                            "type": "array",
                            "items": {"type": "object"},
                            "description": "raw records, columns by name",
                        },
                    },
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": False,
                }
            },
            "image/png": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "responses": {
        "200": {
            "description": "What is released of the predictions: one row a record.",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "names": {"type": "array", "items": {"type": "string"}},
                            "predictions": {"type": "array"},
                        },
                        "required": ["names", "predictions"],
                    }
                }
            },
        },
        **{status: {"description": said, **_ERROR} for status, said in _REFUSALS.items()},
    },
}


def described(model: ServedModel) -> str:
    """One paragraph about the model, for the head of the document."""
    return (
        f"A model for {model.task}, behind the output limit `{model.output}`. What is proved of its training "
        "is at /v1/statement; no limit, rate or guard of this service adds to what is proved."
    )


def page_of(schema: Mapping[str, Any]) -> str:
    """What an OpenAPI document says, as a page without scripts."""
    rows = [
        Markup("<tr><td>{}</td><td><code>{}</code></td><td>{}</td></tr>").format(
            method.upper(), path, each.get("summary", "")
        )
        for path, methods in schema["paths"].items()
        for method, each in methods.items()
    ]
    return Markup(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{{font:1rem sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}"
        "td{{padding:.3rem 1rem .3rem 0}}</style><h1>{title}</h1><p>{said}</p><table>{rows}</table>"
        '<p>In full: <a href="openapi.json">openapi.json</a></p></html>'
    ).format(
        title=schema["info"]["title"], said=schema["info"].get("description", ""), rows=Markup("").join(rows)
    )
