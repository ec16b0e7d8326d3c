"""The routes GET /v1/requests, /v1/requests/{id} and its /explanation: the last finished requests of a key.

The requests of other keys are unknown here, as ids that nobody had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..explanation import explanation, numbers_in_force
from ..protocol.errors import ApiError
from ..recent import Finished
from ..state import server_state
from ..streaming.pieces import NUMBERS, ROWS, JsonWriter, PieceResponse, slices
from ._common import beside_the_loop, key_name

router = APIRouter()
_HEAD_SIZE = 16
"""tokens whose text takes as long to look up as an entry to write"""


_TOKEN_BYTES = 200
"""about what a token of a series takes in memory"""


@router.get("/v1/requests")
async def list_requests(request: Request) -> Response:
    """Returns the last requests of this key, newest first, without their series."""
    newest = server_state(request).recent.newest(key_name(request))

    def work() -> list[bytes]:
        writer = JsonWriter()
        heads = ([finished.head() for finished in some] for some in slices(newest, ROWS))
        return list(writer.pieces({"object": "list", "data": writer.later(heads)}))

    return PieceResponse(await beside_the_loop(request, _HEAD_SIZE * len(newest), work))


@router.get("/v1/requests/{answer_id}")
async def get_request(request: Request, answer_id: str) -> Response:
    """Returns one answer, by its id or its X-Request-Id: each choice with all that is known of it."""
    state = server_state(request)

    def whole(finished: Finished, writer: JsonWriter) -> dict[str, Any]:
        numbers = numbers_in_force(finished, state.engine.profile)
        told = finished.whole(state.model.vocabulary)
        columns = {name: writer.later(slices(column, NUMBERS)) for name, column in told["series"].items()}
        return {**told, "series": columns, "policy_parameters": numbers}

    return await _choices(request, answer_id, "request", whole, size_factor=1)


@router.get("/v1/requests/{answer_id}/explanation")
async def explain_request(request: Request, answer_id: str) -> Response:
    """Returns one answer token by token, each with the rule that picked it and the numbers in it."""
    state = server_state(request)

    def explained(finished: Finished, writer: JsonWriter) -> dict[str, Any]:
        told = explanation(finished, state.engine.profile, state.clarifying, state.model.vocabulary)
        return {**told, "tokens": writer.later(slices(told["tokens"], ROWS))}

    return await _choices(request, answer_id, "explanation", explained, size_factor=64)


async def _choices(
    request: Request,
    answer_id: str,
    kind: str,
    told: Callable[[Finished, JsonWriter], dict[str, Any]],
    size_factor: int,
) -> Response:
    """Returns the choices of an answer as ``told`` tells them. Raises the 404.

    ``size_factor``: the work of a token, in units of ``offload``.
    """
    choices = server_state(request).recent.find(answer_id, key_name(request))
    if not choices:
        raise ApiError(404, "No finished request of this id is remembered.", code="request_not_found")

    def work() -> list[bytes]:
        writer = JsonWriter()
        data = ([told(choice, writer)] for choice in choices)
        return list(writer.pieces({"object": kind, "id": choices[0].id, "choices": writer.later(data)}))

    size = sum(_HEAD_SIZE + size_factor * choice.size // _TOKEN_BYTES for choice in choices)
    return PieceResponse(await beside_the_loop(request, size, work))
