"""POST /tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ..protocol.requests import DetokenizeRequest, TokenizeRequest
from ..state import server_state
from ..telemetry import token_label
from ._common import body_schema, check_model, read_body
from ._prepare import chat_tokens, check_ids, prompt_tokens

router = APIRouter()


@router.post("/tokenize", openapi_extra=body_schema(TokenizeRequest))
async def tokenize(request: Request) -> dict[str, Any]:
    """Token ids of a text or a conversation."""
    state = server_state(request)
    state.check_ready()
    body = await read_body(request, TokenizeRequest)
    check_model(body.model, state)
    if body.messages is not None:
        ids = await chat_tokens(state, body.messages, add_generation_prompt=body.add_generation_prompt)
    else:
        ids = await prompt_tokens(state, body.prompt or "", add_special_tokens=body.add_special_tokens)
    labels = [token_label(state.engine.tokenizer, i) for i in ids] if body.return_token_strs else None
    return {
        "count": len(ids),
        "max_model_len": state.info.max_model_len,
        "tokens": ids,
        "token_strs": labels,
    }


@router.post("/detokenize", openapi_extra=body_schema(DetokenizeRequest))
async def detokenize(request: Request) -> dict[str, str]:
    """Text of token ids, special tokens included."""
    state = server_state(request)
    state.check_ready()
    body = await read_body(request, DetokenizeRequest)
    check_model(body.model, state)
    check_ids(body.tokens, "tokens", state.info)
    return {"prompt": state.engine.tokenizer.decode(body.tokens, skip_special_tokens=False)}
