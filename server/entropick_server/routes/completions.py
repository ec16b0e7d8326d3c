"""POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..protocol.errors import bad_request
from ..protocol.requests import CompletionRequest
from ..state import server_state
from ..streaming.formats import CompletionFormat
from ._common import body_schema, check_model, read_body
from ._prepare import build_requests, prompt_tokens
from ._respond import new_answer_id, respond

router = APIRouter()


@router.post("/v1/completions", openapi_extra=body_schema(CompletionRequest))
async def completions(request: Request) -> Response:
    """Continue one or several prompts, a choice for each."""
    state = server_state(request)
    state.check_ready()
    body = await read_body(request, CompletionRequest, generates=True)
    check_model(body.model, state)
    settings = state.settings
    if len(body.prompt) > (most := settings.max_num_seqs + settings.max_queue):
        # refused now, because a retry could never succeed
        message = f"prompt: at most {most} prompts in one request (max_num_seqs + max_queue)."
        raise bad_request(message, "prompt")
    kind = CompletionFormat(state.engine.tokenizer)
    answer_id = new_answer_id(kind)
    prompts = [await prompt_tokens(state, prompt) for prompt in body.prompt]
    requests = build_requests(body, prompts, state, answer_id, "prompt")
    return await respond(request, body, requests, kind, answer_id, state)
