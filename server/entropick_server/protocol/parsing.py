"""From the bytes of a body to a checked model; every way to fail is an ApiError."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from .errors import ApiError, bad_request
from .unserved import refuse_unserved

_NAME_LIMIT = 64


class WireModel(BaseModel):
    """Strict: "1" is no number and true is not 1. Unknown fields are ignored, as OpenAI's clients expect."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def parse_body(body: bytes, model: type[Model], *, generates: bool = False) -> Model:
    """The model that a JSON object describes; ``generates`` also looks for fields that are not served."""
    try:
        # pydantic's parser: NaN is an error, depth and digits are limited, lone surrogates are refused
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        message = f"The body is not valid JSON: {error}"
        raise bad_request(message, code="invalid_json") from error
    if not isinstance(data, dict):
        raise bad_request("The body must be a JSON object.", code="invalid_json")
    if generates:
        refuse_unserved(data)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> ApiError:
    first: Any = error.errors(include_url=False, include_input=False)[0]
    param = _path(first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "missing":
        message = "is required."
    message = message if message.endswith((".", "?", "!")) else message + "."
    return bad_request(f"{param}: {message}" if param else message, param or None)


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:_NAME_LIMIT]}"
    return path.removeprefix(".")
