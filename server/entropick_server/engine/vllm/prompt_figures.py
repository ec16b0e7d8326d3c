"""From vLLM's log probabilities of a prompt to ours. Imports nothing of vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..types import PromptToken


def prompt_tokens(
    prompt: Sequence[int], known: int, told: Sequence[Mapping[int, Any] | None], wanted: int
) -> tuple[PromptToken, ...]:
    """Returns the figures of a prompt's tokens, behind the first of which ``known`` are there already.

    ``told``: vLLM's, token id -> logprob and rank, of the token itself and the most probable ones; None of
    the prompt's first token. ``wanted``: the most probable tokens to keep beside each.
    """
    found: list[PromptToken] = []
    for of_token in told:
        if of_token is None:
            continue
        token_id = prompt[1 + known + len(found)]
        own = of_token[token_id]
        ranked = sorted((figures.rank, i, figures.logprob) for i, figures in of_token.items())
        top = tuple((i, logprob) for _, i, logprob in ranked[:wanted])
        found.append(PromptToken(token_id, own.logprob, own.rank, top))
    return tuple(found)
