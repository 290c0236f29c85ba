"""The OpenAPI document: every operation has examples, and they follow its schemas."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator

from workbench.api import document
from workbench.server import FACES


def made_document(*, keyed: bool) -> dict[str, Any]:
    app = FastAPI()
    for router in FACES:
        app.include_router(router)
    document.install(app, keyed=keyed)
    return app.openapi()


def operations() -> tuple[dict[str, Any], list[Any]]:
    made = made_document(keyed=False)
    return made, [
        pytest.param(f"{verb.upper()} {path}", operation, id=f"{verb} {path}")
        for path, verbs in made["paths"].items()
        for verb, operation in verbs.items()
    ]


DOCUMENT, OPERATIONS = operations()


@pytest.mark.parametrize(("name", "operation"), OPERATIONS)
def test_examples_are_there_and_follow_the_schema(name: str, operation: dict[str, Any]) -> None:
    parts = [*operation["responses"].values()]
    parts += [operation["requestBody"]] if "requestBody" in operation else []
    for media, content in (item for part in parts for item in part.get("content", {}).items()):
        assert "example" in content, (name, media)
        if media.endswith("json"):
            schema = {**content["schema"], "components": DOCUMENT["components"]}
            Draft202012Validator(schema).validate(content["example"])


def test_how_a_key_is_given_is_said() -> None:
    ways: list[dict[str, Any]] = [{"bearer": []}, {"header": []}, {"basic": []}]
    assert DOCUMENT["security"] == [*ways, {}], "without a key nothing need be sent"
    keyed = made_document(keyed=True)
    assert keyed["security"] == ways
    schemes = keyed["components"]["securitySchemes"]
    assert [scheme.get("scheme", scheme.get("name")) for scheme in schemes.values()] == [
        "bearer",
        "X-API-Key",
        "basic",
    ]
    assert keyed["paths"]["/health/live"]["get"]["security"] == [], "open to all"
