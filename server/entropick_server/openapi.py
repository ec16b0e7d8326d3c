"""The document /openapi.json: bodies that routes read themselves, every answer and refusal of every route.

FastAPI would promise a 422, which no route answers, and nothing about a body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from .protocol import documents as d
from .protocol.requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from .protocol.response_object import ResponseObject
from .protocol.responses import (
    ChatCompletion,
    CompletionText,
    SignalStatistics,
    SignalValues,
)
from .protocol.responses_api import ResponsesRequest

_REFUSALS: Final[Mapping[int, str]] = {
    400: "A field is wrong, or not served; param names it.",
    401: "The key is missing or wrong.",
    404: "There is no such model, request or route.",
    413: "The body is too large.",
    415: "The body is not of type application/json.",
    429: "The key is at one of its limits; Retry-After says when to try again.",
    431: "There are too many headers.",
    500: "The model failed on this request.",
    503: "Requests are not taken now; Retry-After says when to try again.",
    504: "The request took longer than the server allows.",
}
_WITH_BODY: Final = (400, 404, 413, 415, 431)
_TEXT: Final[Mapping[str, Any]] = {"schema": {"type": "string"}}
_EVENT: Final[Mapping[str, Any]] = {
    "schema": {
        "type": "object",
        "description": "an event; its data is JSON, of the last event [DONE]",
        "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        "required": ["data"],
    }
}
_METRICS: Final = ("text/plain", "application/openmetrics-text")
_OPEN: Final = frozenset({"/health"})
"""routes that need no key"""


class Answers(NamedTuple):
    """The answers of a route: the model of its 200, further content types of that, and its refusals."""

    model: type[BaseModel] | None
    refusals: Sequence[int] = (431,)
    texts: Sequence[str] = ()


_STREAM: Final = ("text/event-stream",)
ANSWERS: Final[Mapping[tuple[str, str], Answers]] = {
    ("post", "/v1/chat/completions"): Answers(ChatCompletion, (*_WITH_BODY, 500, 503, 504), _STREAM),
    ("post", "/v1/completions"): Answers(CompletionText, (*_WITH_BODY, 500, 503, 504), _STREAM),
    ("post", "/v1/responses"): Answers(ResponseObject, (*_WITH_BODY, 500, 503, 504), _STREAM),
    ("post", "/tokenize"): Answers(d.Tokenized, (*_WITH_BODY, 503)),
    ("post", "/detokenize"): Answers(d.Detokenized, (*_WITH_BODY, 503)),
    ("get", "/v1/models"): Answers(d.ModelList, (431, 503)),
    ("get", "/v1/models/{model_id}"): Answers(d.ModelCard, (404, 431, 503)),
    ("get", "/v1/requests"): Answers(d.RequestList),
    ("get", "/v1/requests/{answer_id}"): Answers(d.RequestDocument, (404, 431)),
    ("get", "/v1/requests/{answer_id}/explanation"): Answers(d.ExplanationDocument, (404, 431)),
    ("get", "/v1/policy"): Answers(d.PolicyDocument, (431, 503)),
    ("get", "/health"): Answers(d.Health, (431, 503)),
    ("get", "/load"): Answers(d.Load),
    ("get", "/version"): Answers(d.Version),
    ("get", "/metrics"): Answers(None, (431,), _METRICS),
}
"""what each route answers; a route that is not here is not in the document either"""
_BODIES: Final[tuple[type[BaseModel], ...]] = (
    ChatRequest,
    CompletionRequest,
    ResponsesRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
_TOLD: Final[tuple[type[BaseModel], ...]] = (SignalValues, SignalStatistics, d.ErrorBody)


def describe(app: FastAPI, *, keyed: bool) -> None:
    """Makes the app's document tell the truth. ``keyed``: the routes ask for a key."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(generate(), keyed)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(plain: dict[str, Any], keyed: bool) -> dict[str, Any]:
    answered = [row.model for row in ANSWERS.values() if row.model is not None]
    _, definitions = models_json_schema(
        [
            *((model, "validation") for model in _BODIES),
            *((model, "serialization") for model in (*answered, *_TOLD)),
        ],
        ref_template="#/components/schemas/{model}",
    )
    components: dict[str, Any] = {"schemas": definitions["$defs"]}
    for path, operations in plain["paths"].items():
        for method, operation in operations.items():
            row = ANSWERS[method, path]
            refusals = (*row.refusals, 401, 429) if keyed and path not in _OPEN else row.refusals
            operation["responses"] = {"200": _success(row), **_refusals(refusals)}
            if keyed and path not in _OPEN:
                operation["security"] = [{"key": []}]
    if keyed:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {**plain, "components": components}


def _success(row: Answers) -> dict[str, Any]:
    content: dict[str, Any] = {name: _EVENT if name in _STREAM else _TEXT for name in row.texts}
    if row.model is not None:
        content = {"application/json": {"schema": _ref(row.model)}, **content}
    return {"description": "Success.", "content": content}


def _refusals(statuses: Sequence[int]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(d.ErrorBody)}}
    refusals: dict[str, Any] = {
        str(status): {"description": _REFUSALS[status], "content": content} for status in sorted(statuses)
    }
    seconds = {"description": "seconds", "schema": {"type": "integer"}, "required": True}
    for waiting in {429, 503}.intersection(statuses):
        refusals[str(waiting)] = {**refusals[str(waiting)], "headers": {"Retry-After": seconds}}
    return refusals


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
