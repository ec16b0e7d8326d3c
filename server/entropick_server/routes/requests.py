"""GET /v1/requests and /v1/requests/{id}: the last finished requests with their series."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ..protocol.errors import ApiError
from ..state import server_state
from ..telemetry import token_label

router = APIRouter()


@router.get("/v1/requests")
async def list_requests(request: Request) -> dict[str, Any]:
    """The last requests, newest first, without their series."""
    state = server_state(request)
    return {"object": "list", "data": [finished.head() for finished in state.recent.newest()]}


@router.get("/v1/requests/{answer_id}")
async def get_request(request: Request, answer_id: str) -> dict[str, Any]:
    """One answer, by its id or its X-Request-Id: each choice with its series, a column for each signal."""
    state = server_state(request)
    choices = state.recent.find(answer_id)
    if not choices:
        raise ApiError(404, "No finished request of this id is remembered.", code="request_not_found")
    tokenizer = state.engine.tokenizer
    data = [{**c.head(), "series": c.series(lambda i: token_label(tokenizer, i))} for c in choices]
    return {"object": "request", "id": choices[0].id, "choices": data}
