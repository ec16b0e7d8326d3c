"""The routes POST /tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..offload import Work
from ..protocol.fields import Place
from ..protocol.requests import DetokenizeRequest, TokenizeRequest
from ..streaming.pieces import NUMBERS, JsonWriter, PieceResponse, dumped, slices
from ._common import beside_the_loop, body_schema, check_ids, read_body

router = APIRouter()


@router.post("/tokenize", openapi_extra=body_schema(TokenizeRequest))
async def tokenize(request: Request) -> Response:
    """Returns the token ids of a text or a conversation."""
    body, state = await read_body(request, TokenizeRequest, Place.TOKENIZE)
    model = state.model
    messages, text = body.messages, body.prompt or ""

    def work() -> list[bytes]:
        if messages is not None:
            ids = model.encoder.conversation(
                messages,
                add_generation_prompt=body.add_generation_prompt is not False,
                continue_final_message=bool(body.continue_final_message),
                add_special_tokens=bool(body.add_special_tokens),
                bounded=False,
                tools=[tool.definition for tool in body.tools or ()],
                template_options=body.chat_template_kwargs,
            )
        else:
            ids = model.encoder.text(text, add_special_tokens=body.add_special_tokens is not False)
        written = state.engine.tokenizer.vocabulary_token
        writer = JsonWriter()
        labels = ([written(i) for i in some] for some in slices(ids, NUMBERS))
        told = {
            "count": len(ids),
            "max_model_len": model.info.max_model_len,
            "tokens": writer.later(slices(ids, NUMBERS)),
            "token_strs": writer.later(labels) if body.return_token_strs else None,
        }
        return list(writer.pieces(told))

    size = len(text)
    if messages is not None:
        size = model.encoder.conversation_size(sum(message.size for message in messages))
    kind = Work.COUNT if messages is None else Work.CHAT
    return PieceResponse(await beside_the_loop(request, size, work, kind))


@router.post("/detokenize", openapi_extra=body_schema(DetokenizeRequest))
async def detokenize(request: Request) -> Response:
    """Returns the text of token ids, special tokens included."""
    body, state = await read_body(request, DetokenizeRequest, Place.DETOKENIZE)

    def work() -> list[bytes]:
        check_ids(body.tokens, "tokens", state.model.info)
        return [dumped({"prompt": state.engine.tokenizer.decode(body.tokens, skip_special_tokens=False)})]

    return PieceResponse(await beside_the_loop(request, len(body.tokens), work, Work.COUNT))
