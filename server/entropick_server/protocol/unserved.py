"""The refusal of fields that other servers act on and this one does not: by name, never dropped in silence.

The table ``fields`` says which. A field passes where its value asks for nothing (``echo: false``, ``tools:
null``): clients send defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .bounds import MAX_MESSAGES
from .errors import ApiError, bad_request
from .fields import FIELDS, Field, Place, Standing

UNSUPPORTED: Final = "unsupported_parameter"
_REFUSED: Final[Mapping[Place, Mapping[str, Field]]] = {
    place: {row.name: row for row in FIELDS if row.standing is Standing.REFUSED and place in row.places}
    for place in Place
}


_ROUTES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("/v1/embeddings", "/embeddings", "/embedding", "/pooling"), "Embeddings are"),
    **dict.fromkeys(("/v1/rerank", "/v2/rerank", "/rerank", "/v1/reranking"), "Reranking is"),
    **dict.fromkeys(("/v1/score", "/score", "/classify"), "Scoring and classification are"),
    **dict.fromkeys(("/v1/audio", "/v1/realtime"), "Sound is"),
    **dict.fromkeys(("/v1/images", "/v1/videos"), "Pictures are"),
    **dict.fromkeys(("/v1/batches", "/v1/files", "/v1/uploads"), "Files and batches are"),
    **dict.fromkeys(("/v1/fine_tuning", "/v1/fine-tunes", "/v1/evals", "/v1/graders"), "Training is"),
    **dict.fromkeys(("/v1/assistants", "/v1/threads", "/v1/vector_stores"), "Assistants are"),
    **dict.fromkeys(("/v1/conversations", "/v1/containers"), "Conversations are"),
    "/v1/responses": "Stored responses are",
    **dict.fromkeys(("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/lora-adapters"), "Adapters are"),
    "/v1/moderations": "Moderation is",
    "/v1/messages": "Anthropic's API is",
    **dict.fromkeys(("/completion", "/infill", "/apply-template"), "llama.cpp's own API is"),
    **dict.fromkeys(("/generate", "/generate_stream"), "The API of TGI and SGLang is"),
}
"""beginnings of the paths of other servers -> the subject of their refusal"""


def refuse_unserved(fields: Mapping[str, Any], place: Place) -> None:
    """Raises a 400 for the first field of a body that asks for something this server does not do.

    The fields of the messages in it are searched too.
    """
    _refuse(fields, place, "")
    messages = fields.get("messages") if place in (Place.CHAT, Place.TOKENIZE) else None
    if isinstance(messages, list):
        # further messages are refused with their list
        for index, message in enumerate(messages[:MAX_MESSAGES]):
            if isinstance(message, dict):
                _refuse(message, Place.MESSAGE, f"messages[{index}].")


def _refuse(fields: Mapping[str, Any], place: Place, path: str, outer: str = "") -> None:
    refused = _REFUSED[place]
    for name, value in fields.items():
        row = refused.get(outer + name)
        if row is not None and value is not None and not any(_same(value, h) for h in row.harmless):
            raise not_served(path + row.name, row.instead)
        if not outer and isinstance(value, dict):
            _refuse(value, place, path, f"{name}.")


def _same(value: Any, harmless: Any) -> bool:
    # in Python True == 1, in JSON it is not
    return isinstance(value, bool) == isinstance(harmless, bool) and bool(value == harmless)


def not_served(name: str, instead: str = "") -> ApiError:
    """Returns the refusal of a known field; ``instead``: a field or a route that serves its purpose."""
    advice = f"use {instead}" if instead else "leave it out"
    return bad_request(f"'{name}' is not served; {advice}.", name, UNSUPPORTED)


def route_not_served(path: str) -> ApiError | None:
    """Returns the refusal of a route that other servers have; None for any other path.

    A 404, because clients repeat a request that a 501 answers.
    """
    for begin, subject in _ROUTES.items():
        if path == begin or path.startswith(f"{begin}/"):
            message = (
                f"{subject} not served: this server continues text, with POST /v1/chat/completions and "
                "/v1/completions."
            )
            return ApiError(404, message, code="route_not_served")
    return None
