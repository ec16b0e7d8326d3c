"""From the bytes of a body to a checked model; every way to fail is an ApiError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from .bounds import Budget, check_shape
from .errors import ApiError, bad_request, shown
from .fields import Place
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
    "literal_error": "must be {expected}",
    "union_tag_invalid": "must be {expected_tags}",
    "union_tag_not_found": "is required",
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
WHOLE: Final = "<whole>"
IN_PARTS: Final = "<parts>"
AMONG: Final = "<among>"
"""tags of the forms of a content: pydantic puts them into an error's path, which a client does not read"""
_QUOTE: Final = "'"


class WireModel(BaseModel):
    """Base of the bodies. Strict: "1" is no number and true is not 1.

    Unknown fields are ignored, as OpenAI's clients expect.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def parse_body(body: bytes, model: type[Model], place: Place | None = None) -> Model:
    """Returns the model that a JSON object describes. Raises ApiError.

    ``place``: of the table of fields; the object is searched for fields that are not served there.
    """
    check_shape(body)
    try:
        # pydantic's parser: NaN is an error, depth and digits are limited, lone surrogates are refused
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        message = f"The body is not valid JSON: {error}"
        raise bad_request(message, code="invalid_json") from error
    if not isinstance(data, dict):
        raise bad_request("The body must be a JSON object.", code="invalid_json")
    if place is not None:
        refuse_unserved(data, place)
    return checked(model, data)


def checked(model: type[Model], data: dict[str, Any]) -> Model:
    """Returns the model that an object describes. Raises ApiError."""
    try:
        return model.model_validate(data, context=Budget())
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> ApiError:
    first: Any = error.errors(include_url=False)[0]
    kind, limits = first["type"], first.get("ctx", {})
    param = _path(first["loc"])
    words = _WORDS.get(kind)
    if kind.startswith("union_tag"):
        # the field that tells which of several forms this is
        param = f"{param}.{limits['discriminator'].strip(_QUOTE)}"
    if words is None:
        message = str(first["msg"]).removeprefix("Value error, ")
    elif kind == "float_type" and type(first["input"]) is int:
        # a whole number that no float can hold
        message = "is too large" if first["input"] > 0 else "is too small"
    else:
        message = words.format(**{name: _shown_limit(name, value) for name, value in limits.items()})
    message = message if message.endswith((".", "?", "!")) else message + "."
    return bad_request(f"{param}: {message}" if param else message, param or None)


def _shown_limit(name: str, value: Any) -> Any:
    if name in ("expected", "expected_tags"):
        several = " or ".join(str(value).rsplit(", ", 1)) if name == "expected_tags" else str(value)
        return f"one of {several}" if " or " in several else several
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _path(loc: tuple[int | str, ...]) -> str:
    """Returns the path of a field as a client writes it, without the tags that pydantic adds to it."""
    path = ""
    for at, part in enumerate(loc):
        within = loc[at - 2] if at > 1 and isinstance(loc[at - 1], int) else None
        if (
            part in (WHOLE, IN_PARTS, AMONG)
            or within in ("messages", "input")
            or (within == IN_PARTS and at + 1 < len(loc))
        ):
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{shown(part)}"
    return path.removeprefix(".")
