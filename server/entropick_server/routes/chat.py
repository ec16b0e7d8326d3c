"""The route POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..protocol.requests import ChatRequest
from ..streaming.formats import ChatFormat
from ._common import body_schema, read_body
from ._respond import Prompts, respond
from ._tools import message_form

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=body_schema(ChatRequest))
async def chat_completions(request: Request) -> Response:
    """Continues a conversation."""
    body, state = await read_body(request, ChatRequest, generates=True)
    encoder, form = state.model.encoder, message_form(body, state.model)
    prompts = Prompts(
        number=1,
        size=encoder.work_size(sum(len(message.content) for message in body.messages)),
        encode=lambda: [
            encoder.conversation(
                body.messages,
                add_generation_prompt=body.add_generation_prompt is not False,
                continue_final_message=bool(body.continue_final_message),
                tools=form.tools if form is not None else (),
                template_options=body.chat_template_kwargs,
            )
        ],
        param="messages",
        form=form,
    )
    return await respond(request, body, prompts, ChatFormat(), state)
