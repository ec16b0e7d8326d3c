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
from ._common import beside_the_loop, json_list, json_object, key_name

router = APIRouter()
_HEAD_SIZE = 16
"""tokens whose text takes as long to look up as an entry to write"""


_TOKEN_BYTES = 200
"""about what a token of a series takes in memory"""


@router.get("/v1/requests")
async def list_requests(request: Request) -> Response:
    """Returns the last requests of this key, newest first, without their series."""
    newest = server_state(request).recent.newest(key_name(request))

    def work() -> str:
        data = json_list([finished.head() for finished in newest], at_once=64)
        return json_object((("object", '"list"'), ("data", data)))

    text = await beside_the_loop(request, _HEAD_SIZE * len(newest), work)
    return Response(text, media_type="application/json")


@router.get("/v1/requests/{answer_id}")
async def get_request(request: Request, answer_id: str) -> Response:
    """Returns one answer, by its id or its X-Request-Id: each choice with all that is known of it."""
    state = server_state(request)

    def whole(finished: Finished) -> dict[str, Any]:
        numbers = numbers_in_force(finished, state.engine.profile)
        return {**finished.whole(state.model.vocabulary), "policy_parameters": numbers}

    return await _choices(request, answer_id, "request", whole, size_factor=1)


@router.get("/v1/requests/{answer_id}/explanation")
async def explain_request(request: Request, answer_id: str) -> Response:
    """Returns one answer token by token, each with the rule that picked it and the numbers in it."""
    state = server_state(request)

    def explained(finished: Finished) -> dict[str, Any]:
        return explanation(finished, state.engine.profile, state.clarifying, state.model.vocabulary)

    return await _choices(request, answer_id, "explanation", explained, size_factor=64)


async def _choices(
    request: Request,
    answer_id: str,
    kind: str,
    told: Callable[[Finished], dict[str, Any]],
    size_factor: int,
) -> Response:
    """Returns the choices of an answer as ``told`` tells them. Raises the 404.

    ``size_factor``: the work of a token, in units of ``offload``.
    """
    choices = server_state(request).recent.find(answer_id, key_name(request))
    if not choices:
        raise ApiError(404, "No finished request of this id is remembered.", code="request_not_found")

    def work() -> str:
        data = [told(choice) for choice in choices]
        fields = ("object", f'"{kind}"'), ("id", json_list([choices[0].id])[1:-1])
        return json_object((*fields, ("choices", json_list(data, at_once=1))))

    size = sum(_HEAD_SIZE + size_factor * choice.size // _TOKEN_BYTES for choice in choices)
    return Response(await beside_the_loop(request, size, work), media_type="application/json")
