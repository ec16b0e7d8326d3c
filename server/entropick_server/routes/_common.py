"""What every route needs: the checked body, the model's name."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel

from ..protocol.errors import ApiError
from ..protocol.parsing import parse_body
from ..state import ServerState

Model = TypeVar("Model", bound=BaseModel)


async def read_body(request: Request, model: type[Model], *, generates: bool = False) -> Model:
    """The body as a model; the content type must say JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise ApiError(415, "The content type must be application/json.", code="unsupported_media_type")
    return parse_body(await request.body(), model, generates=generates)


def check_model(name: str | None, state: ServerState) -> None:
    """Raise the 404 where a request names another model than the served one."""
    if name is not None and name != state.info.name:
        named = repr(name) if len(name) <= 40 else "of that name"
        message = f"The model {named} does not exist; this server serves {state.info.name!r}."
        raise ApiError(404, message, param="model", code="model_not_found")


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI shows for a body that the route reads itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
