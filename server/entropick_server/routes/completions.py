"""The route POST /v1/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..protocol.fields import Place
from ..protocol.requests import CompletionRequest
from ..streaming.formats import CompletionFormat
from ._common import body_schema, check_ids, read_body
from ._respond import Prompts, respond

router = APIRouter()


@router.post("/v1/completions", openapi_extra=body_schema(CompletionRequest))
async def completions(request: Request) -> Response:
    """Continues a prompt or several, each with its choices."""
    body, state = await read_body(request, CompletionRequest, Place.COMPLETIONS)
    model = state.model

    def encode() -> list[list[int]]:
        for prompt in body.prompt:
            if isinstance(prompt, list):
                check_ids(prompt, "prompt", model.info)
        return model.encoder.texts(
            body.prompt,
            add_special_tokens=body.add_special_tokens is not False,
            bounded=body.truncate_prompt_tokens is None,
        )

    prompts = Prompts(
        number=len(body.prompt),
        size=model.encoder.work_size(sum(map(len, body.prompt))),
        encode=encode,
        param="prompt",
        echoed=[text if isinstance(text, str) else None for text in body.prompt] if body.echo else (),
    )
    return await respond(request, body, prompts, CompletionFormat(), state)
