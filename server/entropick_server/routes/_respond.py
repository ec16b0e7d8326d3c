"""The common half of the two generating routes: from the checked body to the HTTP answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from starlette.responses import Response

from ..consensus.rules import needed
from ..engine.base import EngineError
from ..offload import Work
from ..protocol.errors import from_engine
from ..protocol.requests import GenerationRequest
from ..protocol.structured import Structure
from ..state import ServerState
from ..streaming.answer import Answer, StreamUsage
from ..streaming.consensus import ConsensusAnswer, VotedPrompt
from ..streaming.echo import Echo
from ..streaming.formats import Format
from ..streaming.message import MessageForm
from ..streaming.pieces import PieceResponse
from ..streaming.response import ResponseAnswer
from ..streaming.run import Origin, Run
from ..streaming.sse import EventStream, unless_gone
from ._common import beside_the_loop, key_name
from ._consensus import consensus_of
from ._engine_requests import asked_tokens, build_requests
from ._grammar import grammar_of
from ._rewind import check_rewind, recorded_structure, rewound_by

_CHOICE_SIZE = 16
"""characters that take as long to tokenise as a choice to set up"""


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a body, not yet encoded."""

    number: int
    size: int
    """of the work to encode them"""
    encode: Callable[[], list[list[int]]]
    """returns their token ids, in any thread; raises the 400"""
    param: str
    """the field that holds them"""
    echoed: Sequence[str | None] = ()
    """the text of each as the client sent it, None of token ids, where completions begin with them"""
    form: MessageForm | None = None
    """how the replies are read; None: as text"""
    work: Work = Work.TEXT
    """the kind of that work"""
    forced: Structure | None = None
    """the form of the calls that the replies must be, or may be in place of JSON"""


def _stream_usage(body: GenerationRequest) -> StreamUsage:
    options = body.stream_options
    if options is None or not options.include_usage:
        return StreamUsage.NONE
    return StreamUsage.ALWAYS if options.continuous_usage_stats else StreamUsage.LAST


async def respond(
    http: Request,
    body: GenerationRequest,
    prompts: Prompts,
    kind: Format,
    state: ServerState,
    echoed: dict[str, Any] | None = None,
) -> Response:
    """Runs a checked request. Returns one JSON document, or a stream.

    ``echoed``: the fields that come back in the answer of /v1/responses; None: the answer is of ``kind``.
    """
    body.check_choices(state.settings.max_n)
    check_rewind(body, prompts.number)
    owner = key_name(http)
    consensus = consensus_of(body, state) if echoed is None else None
    structure = prompts.forced or body.structure or recorded_structure(body, state, owner)
    extract = None if body.entropick is None else body.entropick.extractor
    count = body.completions if consensus is None else needed(consensus.stop, (), consensus.k)
    arrival, seconds = time.monotonic(), state.settings.request_timeout_seconds
    origin = Origin(
        answer_id=f"{kind.prefix}-{uuid.uuid4().hex}" if echoed is None else f"resp_{uuid.uuid4().hex}",
        request_id=http.scope["state"]["request_id"],
        owner=owner,
        record=http.scope["state"]["record"],
        route=http.url.path,
        created=int(time.time()),
        model=state.model,
        output=body.output_options,
        # what follows a grammar of the client's is text, unless it may be a call
        form=prompts.form if body.structure is None or body.offers_tools else None,
        deadline=arrival + seconds if seconds else None,
    )
    room = body.prompt_room(state.model.info.max_model_len, body.limit)
    with ExitStack() as stack:
        # from here on the replies count as waiting, whatever is still to be done before they run
        param = prompts.param if prompts.number > 1 else body.choices_name
        admitted = state.admission.admit(
            prompts.number, count, held=consensus is not None, param=param if consensus is None else None
        )
        for prompt in admitted:
            stack.callback(prompt.leave)
        grammar = await grammar_of(http, structure, state)

        vocabulary = state.model.vocabulary

        def prepare() -> tuple[Answer | ConsensusAnswer | ResponseAnswer, int]:
            ids = prompts.encode()
            cut = [False if room is None else len(of_prompt) > room for of_prompt in ids]
            if room is not None:
                ids = [of_prompt[-room:] for of_prompt in ids]
            vote = consensus is not None
            rewound = rewound_by(body, ids[0], state, owner)
            requests = build_requests(
                body,
                ids,
                state,
                origin.answer_id,
                arrival,
                prompts.param,
                vote,
                rewound,
                structure,
                grammar,
                owner or "",
            )
            if consensus is not None:
                voted = [
                    VotedPrompt(index, request, consensus, origin, admitted[index])
                    for index, request in enumerate(requests)
                ]
                return ConsensusAnswer(state, origin, kind, voted), asked_tokens(requests, consensus.k)
            asked = asked_tokens(requests, 1)
            echoes = [
                Echo.of(None if cut[number] else text, ids[number], vocabulary, state.engine.tokenizer)
                for number, text in enumerate(prompts.echoed)
            ]
            runs = [
                Run(
                    index,
                    request,
                    origin,
                    state,
                    admitted[index // count],
                    extract,
                    echoes[index // count] if echoes else None,
                )
                for index, request in enumerate(requests)
            ]
            if echoed is not None:
                return ResponseAnswer(state, origin, runs[0], echoed), asked
            return Answer(state, origin, kind, runs, body.choices, count), asked

        size = prompts.size + _CHOICE_SIZE * prompts.number * count + body.adjusting_size
        if body.entropick is not None and body.entropick.rewind is not None:
            size += body.entropick.rewind.size
        answer, asked = await beside_the_loop(http, size, prepare, prompts.work)
        stack.callback(state.tokens_in_flight.take(owner, asked, body.limit_name))
        state.metrics.choices.on_prompts(prompts.number, body.choices)
        if body.stream:
            return EventStream(
                partial(answer.stream, usage=_stream_usage(body)),
                write_timeout=state.settings.write_timeout_seconds,
                on_end=stack.pop_all().close,
                silence=state.settings.stream_comment_seconds,
            )
        try:
            pieces = await unless_gone(http.receive, answer.collect())
        except EngineError as error:
            raise from_engine(error) from error
    return PieceResponse(pieces)
