"""/openapi.json: every route with its answers and refusals, and nothing that is not so.

That the answers are as it says is tried by schemathesis (tests/e2e/clients).
"""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from entropick_server.openapi import ANSWERS

REQUEST = "application/json"


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/openapi.json")).json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(m, p, o) for p, methods in document["paths"].items() for m, o in methods.items()]


async def test_every_route_is_told(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    app: Any = client.app  # type: ignore[attr-defined]
    routes = {
        (method.lower(), re.sub(r":\w+\}", "}", route.path))
        for route in app.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in route.methods
    }
    assert routes == {(method, path) for method, path, _ in operations(document)} == set(ANSWERS)


async def test_answers_and_refusals(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        answers = operation["responses"]
        assert "422" not in answers, path
        assert answers["200"]["content"], path
        for status, answer in answers.items():
            for kind, content in answer["content"].items():
                assert content["schema"], (path, status, kind)
                if status != "200":
                    assert content["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
        if method == "post":
            assert {"400", "404", "413", "415", "431", "503"} <= set(answers)
            assert operation["requestBody"]["content"][REQUEST]["schema"]["$ref"]
        assert ("404" in answers) == (method == "post" or "{" in path)
    chat = document["paths"]["/v1/chat/completions"]["post"]["responses"]["200"]["content"]
    assert set(chat) == {REQUEST, "text/event-stream"}
    assert chat["text/event-stream"]["schema"]["required"] == ["data"]
    metrics = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert set(metrics) == {"text/plain", "application/openmetrics-text"}


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert named <= set(document["components"]["schemas"])


async def test_a_key_is_told_where_it_is_asked_for(serve: Any, engine: Any, document: dict[str, Any]) -> None:
    assert "securitySchemes" not in document["components"]
    assert not any("401" in o["responses"] or "security" in o for _, _, o in operations(document))
    async with serve(engine, api_key="k") as client:
        keyed = (await client.get("/openapi.json", headers={"Authorization": "Bearer k"})).json()
        assert keyed["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
        for _, path, operation in operations(keyed):
            guarded = (await client.get(path.replace("{", "").replace("}", ""))).status_code == 401
            assert guarded == ("401" in operation["responses"]) == ("security" in operation), path


def forms(schema: dict[str, Any]) -> set[str]:
    """The types that a schema admits."""
    if "anyOf" in schema or "oneOf" in schema:
        return {form for part in schema.get("anyOf", schema.get("oneOf", ())) for form in forms(part)}
    return {schema["type"]} if "type" in schema else {"object"}


async def test_fields_of_several_forms(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    chat, text = schemas["ChatRequest"]["properties"], schemas["CompletionRequest"]["properties"]
    assert forms(text["prompt"]) == {"string", "array"}
    assert forms(text["stop"]) == forms(chat["stop"]) == {"string", "array", "null"}
    assert forms(schemas["UserMessage"]["properties"]["content"]) == {"string", "array"}
    assert forms(schemas["AssistantMessage"]["properties"]["content"]) == {"string", "array", "null"}
    kinds = [part["items"] for part in text["prompt"]["anyOf"] if part["type"] == "array"]
    assert [forms(kind) for kind in kinds] == [{"string"}, {"integer"}, {"array"}]
    options = schemas["EntropickOptions"]["properties"]
    for name in ("overrides", "branch", "consensus", "layer_entropy"):
        (object_form,) = [form for form in options[name]["anyOf"] if form.get("type") == "object"]
        assert object_form["properties"], name
        assert object_form["additionalProperties"] is False


@pytest.mark.parametrize("path", ["/v1/models/none", "/v1/requests/none", "/v1/requests/none/explanation"])
async def test_an_id_that_is_none_is_a_404(serve: Any, engine: Any, path: str) -> None:
    async with serve(engine) as client:
        assert (await client.get(path)).status_code == 404
    engine.load_gate.clear()
    async with serve(engine, wait=False) as client:
        assert (await client.get(path)).status_code in (404, 503)
