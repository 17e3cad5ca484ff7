"""What the server answers, as OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1.html)."""

from __future__ import annotations

from typing import Any

from .. import __version__
from ..contract.spec import INDICES, LARGEST_LATENT, SEEDS, SPEC_KEY
from ..generator import ImageGenerator
from ..request import DEFAULT_SEED
from .protocol import Tensor, gives, takes

_Json = dict[str, Any]
_ERRORS = {
    400: "Not what the model takes, or out of range.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    500: "The model has failed.",
    503: "Too much is waiting. Ask again after Retry-After.",
}


def describe(generator: ImageGenerator, most: int) -> _Json:
    """The whole document.

    Args:
        generator: that is served.
        most: images in a request.
    """
    model = f"/v2/models/{generator.name}"
    paths = {
        "/image.png": {"get": _picture(generator, most)},
        "/v2": {"get": _get("What this server is.", {"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)})},
        "/v2/health/live": {"get": _get("Whether it runs.", {"live": {"type": "boolean"}})},
        "/v2/health/ready": {"get": _get("Whether it can make images.", {"ready": {"type": "boolean"}})},
        model: {"get": _get("Names, types and shapes of what the model takes and gives.", _metadata())},
        f"{model}/ready": {
            "get": _get("Whether the model can make images.", {"name": _TEXT, "ready": {"type": "boolean"}})
        },
        f"{model}/infer": {"post": _infer(generator, most)},
        "/metrics": {
            "get": {
                "summary": "Counters, in the text format of Prometheus.",
                "responses": {"200": _answer("The counters.", "text/plain", _TEXT)},
            }
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"dcgan-serve: {generator.name}", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": _object({"error": _TEXT})}},
    }


_TEXT: _Json = {"type": "string"}


def _list(of: _Json, **more: Any) -> _Json:
    return {"type": "array", "items": of, **more}


def _object(required: _Json, optional: _Json | None = None) -> _Json:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _whole(least: int, most: int) -> _Json:
    return {"type": "integer", "minimum": least, "maximum": most}


def _answer(text: str, kind: str, schema: _Json) -> _Json:
    return {"description": text, "content": {kind: {"schema": schema}}}


def _get(summary: str, properties: _Json) -> _Json:
    return {"summary": summary, "responses": {"200": _answer("So it is.", "application/json", _object(properties))}}


def _refusals(*statuses: int) -> _Json:
    schema = {"$ref": "#/components/schemas/Error"}
    found = {str(status): _answer(_ERRORS[status], "application/json", schema) for status in statuses}
    if 503 in statuses:
        found["503"]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return found


def _picture(generator: ImageGenerator, most: int) -> _Json:
    spec = generator.spec
    texts: dict[str, tuple[str, _Json]] = {
        "seed": (
            "Of the latents. The same one makes the same picture.",
            _whole(0, SEEDS - 1) | {"default": DEFAULT_SEED},
        ),
        "n": ("Number of images; 16, or as many as classes are named, if it is not said.", _whole(1, most)),
        "start": ("Index of the first image of the seed.", _whole(0, INDICES - 1) | {"default": 0}),
        "columns": ("Of the grid; nearly square if it is not said.", _whole(1, most)),
        "scale": (
            "Each pixel becomes a square of this side; large enough to be seen if it is not said.",
            _whole(1, 64),
        ),
    }
    if not generator.model.takes_seed:
        psi = {"type": "number", "minimum": 0, "maximum": 2}
        texts["truncation"] = ("Factor on the latents; below 1 images are more regular.", psi)
    if spec.num_classes:
        text = "Which to make, in turn, by name or number; drawn by the seed if it is not said."
        texts["class"] = (text, _list(_TEXT, examples=[[spec.labels[0]]]))
    if any(len(name) == 1 and name.isalnum() for name in spec.labels):
        # A number is a text too, and so it is in a query.
        written: _Json = {"type": ["string", "number"], "examples": ["2026-11-25"]}
        texts["text"] = (
            "Write this by hand, such as a date; what is neither letter nor digit leaves a place empty.",
            written,
        )
    if generator.makes_digits:
        texts["digit"] = ("Make this digit only.", _whole(0, 9))
        texts["digits"] = ("Make these in turn, like 0123456789.", {"type": "string", "pattern": "^[0-9]+$"})
    parameters = [
        {"name": name, "in": "query", "description": text, "schema": schema} for name, (text, schema) in texts.items()
    ]
    return {
        "summary": "A grid of images; image i of a seed is the same whatever else is asked for.",
        "parameters": parameters,
        "responses": {
            "200": _answer("The picture. Its text chunks say how it was made.", "image/png", {})
            | {"headers": {name: {"schema": _TEXT} for name in ("ETag", "Cache-Control")}},
            "304": {"description": "It is the one of If-None-Match."},
            **_refusals(400, 500, 503),
        },
    }


def _metadata() -> _Json:
    tensors = _list(_object({"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"})}))
    told = _object({SPEC_KEY: {"type": "string", "description": "Sizes, names of classes, value range: JSON."}})
    return {"name": _TEXT, "platform": _TEXT, "inputs": tensors, "outputs": tensors, "parameters": told}


def _infer(generator: ImageGenerator, most: int) -> _Json:
    inputs, output = takes(generator), gives(generator)
    level = _whole(0, 255) if output.datatype == "UINT8" else {"type": "number"}
    request = _object(
        {
            "inputs": _list(
                {"oneOf": [_tensor(tensor, _values(tensor, generator, most), most) for tensor in inputs]},
                minItems=len(inputs),
                maxItems=len(inputs),
                description=f"Each once, for 1 to {most} images.",
            )
        },
        {"id": _TEXT, "outputs": _list(_object({"name": {"const": "image"}}))},
    )
    answer = _object({"model_name": _TEXT, "outputs": _list(_tensor(output, level, most))}, {"id": _TEXT})
    return {
        "summary": "Images of the Open Inference Protocol: numbers as the model gives them.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": _answer("The images.", "application/json", answer), **_refusals(*_ERRORS)},
    }


def _values(tensor: Tensor, generator: ImageGenerator, most: int) -> _Json:
    if tensor.name == "z":
        return {"type": "number", "minimum": -LARGEST_LATENT, "maximum": LARGEST_LATENT}
    classes = _whole(-1 if generator.model.takes_seed else 0, generator.spec.num_classes - 1)
    return {"label": classes, "seed": _whole(0, SEEDS - 1), "n": _whole(1, most)}[tensor.name]


def _tensor(tensor: Tensor, value: _Json, most: int) -> _Json:
    sizes = [_whole(0, most) if size < 0 else {"const": size} for size in tensor.shape]
    shape: _Json = {"type": "array", "minItems": len(sizes), "maxItems": len(sizes)}
    if sizes:
        shape["prefixItems"] = sizes
    return _object(
        {
            "name": {"const": tensor.name},
            "datatype": {"const": tensor.datatype},
            "shape": shape,
            "data": _list(value, description="Flat, or nested as the shape says."),
        }
    )
