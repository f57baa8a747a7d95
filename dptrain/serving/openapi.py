"""What the OpenAPI document says beyond what the routes say by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from dptrain.contracts import Forms, Raw
from dptrain.serving.inputs import IMAGE
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

SCHEMES = {"key": {"type": "http", "scheme": "bearer", "description": "made by `dptrain-keys make`"}}


def _refusals(*statuses: str) -> dict[str, Any]:
    return {status: {"description": _REFUSALS[status], **_ERROR} for status in statuses}


# Of a route that asks for a key.
KEYED: dict[str, Any] = {"security": [{"key": []}], "responses": _refusals("401", "403", "503")}


def predict_of(model: ServedModel, most_records: int) -> dict[str, Any]:
    """Of the route /v1/predict, which reads its body itself: bounded, before anything is parsed."""
    rows = {"type": "array", "minItems": 1, "maxItems": most_records}
    return {
        "security": [{"key": []}],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "inputs": _inputs(model.forms, rows),
                            **(
                                {}
                                if model.raw is None
                                else {"records": {**rows, "items": _record(model.raw)}}
                            ),
                        },
                        "minProperties": 1,
                        "maxProperties": 1,
                        "additionalProperties": False,
                    }
                },
                **({"image/png": {"schema": _PNG}} if _takes_images(model) else {}),
            },
        },
        "responses": {
            "200": {
                "description": "What is released of the predictions: one row a record.",
                "content": {"application/json": {"schema": _ANSWER}},
            },
            **_refusals(*_REFUSALS),
        },
    }


_PNG = {"type": "string", "format": "binary"}
_PIXELS = {"type": ["string", "array"], "description": "a file in base64, or pixels: rows, columns, channels"}
_CELL = {"type": ["string", "number", "null"]}
_ANSWER = {
    "type": "object",
    "properties": {
        "names": {"type": "array", "items": {"type": "string"}},
        "predictions": {"type": "array"},
    },
    "required": ["names", "predictions"],
}


def _takes_images(model: ServedModel) -> bool:
    return model.raw is not None and set(model.raw.example) == {IMAGE}


def _inputs(forms: Forms, rows: dict[str, Any]) -> dict[str, Any]:
    """Arrays as the model takes them."""
    if isinstance(forms, Mapping):
        named = {name: _inputs(form, rows) for name, form in forms.items()}
        return {
            "type": "object",
            "properties": named,
            "required": list(named),
            "additionalProperties": False,
            "description": "of as many records each",
        }
    low, high = forms.bounds
    inner: dict[str, Any] = {"type": "integer" if forms.whole else "number", "minimum": low, "maximum": high}
    for size in reversed(forms.shape):
        inner = {"type": "array", "minItems": size, "maxItems": size, "items": inner}
    return {**rows, "items": inner}


def _record(raw: Raw) -> dict[str, Any]:
    """A raw record: columns by name."""
    return {
        "type": "object",
        "properties": dict.fromkeys(raw.example, _PIXELS if set(raw.example) == {IMAGE} else _CELL),
        "required": sorted(raw.example.keys() - raw.optional),
        "additionalProperties": False,
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
