"""The route POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..offload import Work
from ..protocol.fields import Place
from ..protocol.requests import ChatRequest
from ..state import ServerState
from ..streaming.formats import ChatFormat
from ._common import body_schema, read_body
from ._respond import Prompts, respond
from ._tools import call_structure, message_form

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=body_schema(ChatRequest))
async def chat_completions(request: Request) -> Response:
    """Continues a conversation."""
    body, state = await read_body(request, ChatRequest, Place.CHAT)
    return await respond(request, body, chat_prompts(body, state), ChatFormat(), state)


def chat_prompts(body: ChatRequest, state: ServerState, param: str = "messages") -> Prompts:
    """Returns the prompt of a conversation; ``param``: the field that holds it. Raises the 400."""
    encoder, form = state.model.encoder, message_form(body, state.model)
    return Prompts(
        number=1,
        size=encoder.conversation_size(sum(message.size for message in body.messages)),
        encode=lambda: [
            encoder.conversation(
                body.messages,
                add_generation_prompt=body.add_generation_prompt is not False,
                continue_final_message=bool(body.continue_final_message),
                add_special_tokens=bool(body.add_special_tokens),
                bounded=body.truncate_prompt_tokens is None,
                tools=[tool.definition for tool in body.offered],
                template_options=body.chat_template_kwargs,
                param=param,
            )
        ],
        param=param,
        work=Work.CHAT,
        form=form,
        forced=call_structure(body, state.model),
    )
