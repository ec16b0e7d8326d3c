"""The forms in which the values of settings arrive: a TOML table, or the text of an option or a variable."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode


def json_object(value: Any) -> Any:
    """Returns a table of the file as it is, and the text of an option or a variable parsed as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"must be a JSON object: {error}") from error


def asked_genuineness(value: Any) -> Any:
    """Returns a value of ``genuineness``, true and false also as the text of an option or a variable."""
    named = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    if isinstance(named, bool) or named in ("scores", "seed"):
        return named
    raise ValueError("must be scores, true, seed or false")


def text_list(value: Any) -> Any:
    """Returns a list of texts, made of a JSON list, a text with commas, or a list of either."""
    if isinstance(value, str):
        text = value.strip()
        return json_object(text) if text.startswith("[") else [part.strip() for part in text.split(",")]
    if isinstance(value, list | tuple):
        return [item for part in value for item in (text_list(part) if isinstance(part, str) else [part])]
    return value


# NoDecode: the environment's text comes here too, for one message wherever a value is from
JsonObject = Annotated[dict[str, Any], NoDecode, BeforeValidator(json_object)]
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], NoDecode, BeforeValidator(text_list)]


def layer_numbers(text: str | None) -> tuple[int, ...] | float | None:
    """Returns the layers of a text like 0,3, the share of one like auto:0.25 (auto: a half); None stays."""
    if text is None:
        return None
    if text.startswith("auto"):
        return float(text.partition(":")[2] or 0.5)
    return tuple(int(layer) for layer in text.split(","))
