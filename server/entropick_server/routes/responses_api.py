"""The route POST /v1/responses: OpenAI's newer form of a reply, without anything stored."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..protocol.fields import Place
from ..protocol.responses_api import ResponsesRequest
from ..protocol.unserved import refuse_unserved
from ..streaming.formats import ChatFormat
from ._common import body_schema, read_body
from ._respond import respond
from .chat import chat_prompts

router = APIRouter()


@router.post("/v1/responses", openapi_extra=body_schema(ResponsesRequest))
async def responses(request: Request) -> Response:
    """Continues a conversation of items."""
    body, state = await read_body(request, ResponsesRequest)
    # what is not this route's means what it means in a chat request
    refuse_unserved(body.model_extra or {}, Place.CHAT)
    asked = await state.offload.read(len(await request.body()), body.chat)
    prompts = chat_prompts(asked, state, "input")
    return await respond(request, asked, prompts, ChatFormat(), state, echoed=body.echoed)
