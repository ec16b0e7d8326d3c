"""The routes GET /v1/requests and /v1/requests/{id}: the last finished requests with their series."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..protocol.errors import ApiError
from ..state import server_state
from ._common import beside_the_loop, json_list, json_object

router = APIRouter()
_HEAD_SIZE = 16
"""tokens whose text takes as long to look up as an entry to write"""


_TOKEN_BYTES = 200
"""about what a token of a series takes in memory"""


@router.get("/v1/requests")
async def list_requests(request: Request) -> Response:
    """Returns the last requests, newest first, without their series."""
    newest = server_state(request).recent.newest()

    def work() -> str:
        data = json_list([finished.head() for finished in newest], at_once=64)
        return json_object((("object", '"list"'), ("data", data)))

    text = await beside_the_loop(request, _HEAD_SIZE * len(newest), work)
    return Response(text, media_type="application/json")


@router.get("/v1/requests/{answer_id}")
async def get_request(request: Request, answer_id: str) -> Response:
    """Returns one answer, by its id or its X-Request-Id: each choice with all that is known of it."""
    state = server_state(request)
    choices = state.recent.find(answer_id)
    if not choices:
        raise ApiError(404, "No finished request of this id is remembered.", code="request_not_found")

    def work() -> str:
        data = [choice.whole(state.model.vocabulary) for choice in choices]
        fields = ("object", '"request"'), ("id", json_list([choices[0].id])[1:-1])
        return json_object((*fields, ("choices", json_list(data, at_once=1))))

    size = sum(_HEAD_SIZE + c.size // _TOKEN_BYTES for c in choices)
    return Response(await beside_the_loop(request, size, work), media_type="application/json")
