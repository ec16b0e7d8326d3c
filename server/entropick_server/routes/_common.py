"""Helpers of the routes: the checked body, the model's name, work beside the event loop, JSON in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel

from ..engine.types import ModelInfo
from ..offload import SMALL, Work
from ..protocol.errors import ApiError, bad_request
from ..protocol.fields import Place
from ..protocol.parsing import parse_body
from ..protocol.requests import ModelRequest
from ..state import ServerState, server_state
from ..streaming.sse import unless_gone

Body = TypeVar("Body", bound=ModelRequest)
Result = TypeVar("Result")


async def read_body(
    request: Request, model: type[Body], place: Place | None = None
) -> tuple[Body, ServerState]:
    """Returns the body as a model, and the app's state.

    ``place``: of the table of fields; the body is searched for fields that are not served there.

    Raises the refusal: not ready, not JSON, a field that is wrong, another model than the served one.
    """
    state = server_state(request)
    state.check_ready()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise ApiError(415, "The content type must be application/json.", code="unsupported_media_type")
    data = await request.body()
    body = await state.offload.read(len(data), lambda: parse_body(data, model, place))
    check_model(body.model, state.model.names)
    return body, state


def check_model(name: str | None, served: Sequence[str]) -> None:
    """Raises the 404 where a request names another model than the served model, whose ids are given."""
    if name is not None and name not in served:
        named = repr(name) if len(name) <= 40 else "of that name"
        message = f"The model {named} does not exist; this server serves {served[0]!r}."
        raise ApiError(404, message, param="model", code="model_not_found")


def check_ids(ids: Sequence[int], param: str, info: ModelInfo) -> None:
    """Raises the 400 for token ids outside the vocabulary."""
    if ids and not (min(ids) >= 0 and max(ids) < info.vocab_size):
        raise bad_request(f"{param}: token ids must be between 0 and {info.vocab_size - 1}.", param)


def key_name(request: Request) -> str | None:
    """Returns the name of the key that opened a request; None where no keys are set."""
    name: str | None = request.scope["state"].get("key_name")
    return name


async def beside_the_loop(
    request: Request, size: int, work: Callable[[], Result], kind: Work = Work.TEXT
) -> Result:
    """Runs ``work`` on ``size`` characters or tokens, in a thread unless it is small. Returns its result.

    Work that has not begun is dropped when the client goes away.
    """
    if size < SMALL:
        return work()
    return await unless_gone(request.receive, server_state(request).offload.run(size, work, kind))


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Returns the OpenAPI entry for a body that the route reads itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
