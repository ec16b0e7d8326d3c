"""The consensus of a request: its own or the server's, unless other fields forbid it."""

from __future__ import annotations

from entropick_sampler.params import LOWEST_TEMPERATURE

from ..consensus.config import ConsensusConfig
from ..protocol.errors import bad_request
from ..protocol.requests import GenerationRequest
from ..state import ServerState
from ._engine_requests import temperature_of

_NAME = "entropick.consensus"


def consensus_of(body: GenerationRequest, state: ServerState) -> ConsensusConfig | None:
    """Returns the consensus that a checked body gets; None: ordinary choices.

    A server's default yields to what it cannot go together with. Raises the 400 where the request itself asks
    for both, or for more replies than the server makes.
    """
    block = body.entropick
    asked = block is not None and bool(block.consensus is not None)
    config = state.default_consensus if block is None else block.vote(state.default_consensus)
    if config is None:
        return None
    if (conflict := _conflict(body, state)) is not None:
        if not asked:
            return None
        param, why = conflict
        raise bad_request(f"{param}: not together with {_NAME}{why}.", param)
    if config.k > (most := state.settings.max_n):
        raise bad_request(f"{_NAME}.k: must be at most {most} (the server's max_n).", f"{_NAME}.k")
    return config


def _conflict(body: GenerationRequest, state: ServerState) -> tuple[str, str] | None:
    """Returns the field that a consensus cannot go together with, and why; None where there is none."""
    if body.choices > 1:
        return "n", ", which returns one choice"
    if body.completions > 1:
        return "best_of", ", which picks by a vote"
    if body.offers_tools:
        return "tools", ", which compares texts"
    if body.prompt_alternatives is not None or getattr(body, "echo", None):
        return (
            "prompt_logprobs" if body.prompt_logprobs is not None else "echo",
            ", which draws replies alone",
        )
    block = body.entropick
    if block is not None and block.rewind is not None:
        return "entropick.rewind", ", which draws several replies"
    if block is not None and block.branch is not None and block.branch.get("budget") != 0:
        return "entropick.branch", "; give the branches a budget of 0 or leave one of the two out"
    temperature = temperature_of(body, state)
    if temperature is not None and temperature < LOWEST_TEMPERATURE:
        return "temperature", f": at {temperature:g} all replies are the same one"
    return None
