"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..protocol.requests import ChatRequest
from ..state import server_state
from ..streaming.formats import ChatFormat
from ._common import body_schema, check_model, read_body
from ._prepare import build_requests, chat_tokens
from ._respond import new_answer_id, respond

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=body_schema(ChatRequest))
async def chat_completions(request: Request) -> Response:
    """Continue a conversation."""
    state = server_state(request)
    state.check_ready()
    body = await read_body(request, ChatRequest, generates=True)
    check_model(body.model, state)
    kind = ChatFormat(state.engine.tokenizer)
    answer_id = new_answer_id(kind)
    prompt = await chat_tokens(state, body.messages)
    requests = build_requests(body, [prompt], state, answer_id, "messages")
    return await respond(request, body, requests, kind, answer_id, state)
