"""The rewind of a request: the beginning of a reply that it goes on behind, checked against the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..detokenizer import Detokenizer
from ..engine.reply import MAX_CHOICES
from ..engine.types import Resumed
from ..protocol.errors import ApiError, bad_request
from ..protocol.options import RewindOptions
from ..protocol.requests import GenerationRequest
from ..protocol.structured import Structure
from ..recent import Finished
from ..rewind import behind, rewound
from ..state import ServerState
from ._common import check_ids

_NAME = "entropick.rewind"


@dataclass(frozen=True, slots=True)
class Rewound:
    """The beginning of a reply, the number of its choice, and its seed (None: not known)."""

    resumed: Resumed
    choice: int
    seed: int | None


def check_rewind(body: GenerationRequest, prompts: int) -> None:
    """Raises the 400 where a body with a rewind asks for more than one choice."""
    if body.entropick is None or body.entropick.rewind is None:
        return
    if body.prompt_alternatives is not None or getattr(body, "echo", None):
        name = "prompt_logprobs" if body.prompt_logprobs is not None else "echo"
        raise bad_request(f"{name}: not together with {_NAME}, whose prompt holds the kept tokens.", name)
    for name, number in (("n", body.choices), ("best_of", body.completions), ("prompt", prompts)):
        if number > 1:
            raise bad_request(f"{name}: not together with {_NAME}, which goes on with one reply.", name)


def recorded_structure(body: GenerationRequest, state: ServerState, owner: str | None) -> Structure | None:
    """Returns the form that the recorded reply of a rewind has; None: it has none, or the body names another.

    ``owner``: the name of the key that asks. Raises the 404 where no such reply of it is remembered.
    """
    asked = None if body.entropick is None else body.entropick.rewind
    if asked is None or asked.request is None or body.structure is not None:
        return None
    grammar = _recorded(asked, state, owner).grammar
    return None if grammar is None else Structure(grammar, _NAME)


def rewound_by(
    body: GenerationRequest, prompt: Sequence[int], state: ServerState, owner: str | None
) -> Rewound | None:
    """Returns the beginning of the reply that a checked body goes on behind; None where it names none.

    ``prompt``: the token ids of its prompt; ``owner``: the name of the key that asks, whose replies alone are
    known to it. Raises the 400 or 404 that names the field.
    """
    asked = None if body.entropick is None else body.entropick.rewind
    if asked is None:
        return None
    model = state.model
    tokenizer, text = state.engine.tokenizer, state.clarifying
    if asked.token_id is not None:
        check_ids([asked.token_id], f"{_NAME}.token_id", model.info)
    if asked.token_ids is not None:
        check_ids(asked.token_ids, f"{_NAME}.token_ids", model.info)
        if asked.choice >= MAX_CHOICES:
            raise bad_request(f"{_NAME}.choice: must be at most {MAX_CHOICES - 1}.", f"{_NAME}.choice")
        made = Rewound(behind(asked.token_ids, asked.token_id, tokenizer, text), asked.choice, None)
    else:
        finished = _recorded(asked, state, owner)
        known = finished.prompt_token_ids
        if known is not None and list(known) != list(prompt):
            message = f"{_NAME}.request: its prompt is another one; send the messages or the prompt again."
            raise bad_request(message, f"{_NAME}.request")
        try:
            resumed = rewound(finished, asked.index or 0, asked.token_id, tokenizer, text)
        except ValueError as error:
            raise bad_request(f"{_NAME}.index: {error}.", f"{_NAME}.index") from error
        made = Rewound(resumed, finished.summary.choice, finished.sampling.seed)
    kept = [token.token_id for token in made.resumed.tokens]
    _check_stops(body, kept, state)
    return made


def _recorded(asked: RewindOptions, state: ServerState, owner: str | None) -> Finished:
    """Finds the reply that a rewind names. Raises the 404."""
    choices = state.recent.find(asked.request or "", owner)
    found = next((finished for finished in choices if finished.choice == asked.choice), None)
    if found is None:
        field = "choice" if choices else "request"
        message = f"{_NAME}.{field}: no finished request of this id and choice is remembered."
        raise ApiError(404, message, param=f"{_NAME}.{field}", code="request_not_found")
    return found


def _check_stops(body: GenerationRequest, kept: Sequence[int], state: ServerState) -> None:
    """Raises the 400 where a reply would have ended within the tokens that are kept."""
    try:
        vocabulary = state.model.vocabulary
        texts = vocabulary.visible if body.skip_special_tokens is False else vocabulary.bytes
        early = body.min_tokens or 0
        Detokenizer(texts.__getitem__, body.stop or (), min_tokens=early).begin_behind(kept)
    except ValueError as error:
        raise bad_request(f"stop: {error}; rewind to before it, or leave it out.", "stop") from error
    ends = {*(() if body.ignore_eos else state.model.info.eos_token_ids), *(body.stop_token_ids or ())}
    if ended := [i for i in kept if i in ends]:
        message = f"{_NAME}: the kept tokens hold {ended[0]}, which ends a reply; rewind to before it."
        raise bad_request(message, _NAME)
