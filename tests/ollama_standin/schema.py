"""What ``format`` becomes for llama.cpp."""

from __future__ import annotations

from typing import Any

from .errors import BackendError, bad_format
from .gojson import encode

_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}


def constraint(wanted: Any) -> dict[str, Any]:
    """The ``json_schema`` of a completion, or nothing."""
    if wanted is None or wanted == "":
        return {}
    if wanted == "json":
        return {"json_schema": {"type": "object"}}
    if not isinstance(wanted, dict):
        raise bad_format(encode(wanted))
    return {"json_schema": _strict(wanted)}


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, closed where it lists properties.

    The real server's llama.cpp converts schemas itself: it allows no properties that are not listed
    and refuses types it does not know. The build here has another converter, which does neither.
    """
    kind = schema.get("type")
    if isinstance(kind, str) and kind not in _TYPES:
        raise _unknown(schema)
    closed = dict(schema)
    properties = schema.get("properties")
    if isinstance(properties, dict):
        closed["properties"] = {name: _strict(child) for name, child in properties.items()}
        closed.setdefault("additionalProperties", False)
    if isinstance(schema.get("items"), dict):
        closed["items"] = _strict(schema["items"])
    return closed


def _unknown(schema: dict[str, Any]) -> BackendError:
    message = (
        "Field 'json_schema': \"json_schema\": JSON schema conversion failed:\n"
        f"Unrecognized schema: {encode(schema)}"
    )
    error = {"code": 400, "message": message, "type": "invalid_request_error"}
    return BackendError(400, encode({"error": error}))
