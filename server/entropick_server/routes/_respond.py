"""The common half of the two generating routes: from the engine's requests to the HTTP answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from fastapi import Request
from starlette.responses import Response

from ..engine import types
from ..engine.base import EngineError
from ..protocol.errors import from_engine
from ..protocol.requests import GenerationRequest
from ..state import ServerState
from ..streaming.answer import Answer
from ..streaming.choice import Choice, merge
from ..streaming.formats import Format, Report
from ..streaming.sse import EventStream, unless_gone
from ._lifecycle import Origin, observed


def new_answer_id(kind: Format) -> str:
    """An id as OpenAI's look."""
    return f"{kind.prefix}-{uuid.uuid4().hex}"


async def respond(
    http: Request,
    body: GenerationRequest,
    requests: Sequence[types.Request],
    kind: Format,
    answer_id: str,
    state: ServerState,
) -> Response:
    """Run the requests; answer with one JSON document, or with a stream."""
    tokenizer = state.engine.tokenizer
    choices = [
        Choice(index, request, tokenizer, state.info.eos_token_ids) for index, request in enumerate(requests)
    ]
    created = int(time.time())
    origin = Origin(answer_id, http.scope["state"]["request_id"], http.url.path, created)
    answer = Answer(
        id=answer_id,
        created=created,
        model=state.info.name,
        fingerprint=state.fingerprint,
        format=kind,
        report=Report(tokenizer, state.profile_id),
        choices=choices,
        n=body.choices,
        best_of=body.completions,
    )
    deltas = merge([observed(choice, state, origin) for choice in choices])
    if body.stream:
        options = body.stream_options
        frames = answer.frames(deltas, include_usage=bool(options and options.include_usage))
        return EventStream(frames, write_timeout=state.settings.write_timeout_seconds)
    try:
        text = await unless_gone(http.receive, answer.collect(deltas))
    except EngineError as error:
        raise from_engine(error) from error
    return Response(text, media_type="application/json")
