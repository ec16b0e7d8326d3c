"""From the bytes of a body to a checked model; every way to fail is an ApiError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from .errors import ApiError, bad_request, shown
from .unserved import refuse_unserved

_WORDS: Final[Mapping[str, str]] = {
    "missing": "is required",
    "too_short": "must have at least {min_length} in its list",
    "too_long": "may have at most {max_length} in its list",
    "string_too_short": "must not be empty",
    "string_too_long": "may have at most {max_length} characters",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be one of {expected}",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
"""kind of pydantic's error -> the words that a client reads, filled from the error's context"""


class WireModel(BaseModel):
    """Base of the bodies. Strict: "1" is no number and true is not 1.

    Unknown fields are ignored, as OpenAI's clients expect.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def parse_body(body: bytes, model: type[Model], *, generates: bool = False) -> Model:
    """Returns the model that a JSON object describes. Raises ApiError.

    ``generates``: the object is also searched for fields that are not served.
    """
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
    first: Any = error.errors(include_url=False)[0]
    param = _path(first["loc"])
    words = _WORDS.get(first["type"])
    if words is None:
        message = str(first["msg"]).removeprefix("Value error, ")
    elif first["type"] == "float_type" and type(first["input"]) is int:
        # a whole number that no float can hold
        message = "is too large" if first["input"] > 0 else "is too small"
    else:
        limits = first.get("ctx", {})
        message = words.format(
            **{k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in limits.items()}
        )
    message = message if message.endswith((".", "?", "!")) else message + "."
    return bad_request(f"{param}: {message}" if param else message, param or None)


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{shown(part)}"
    return path.removeprefix(".")
