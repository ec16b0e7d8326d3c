"""The grammar of a request: compiled beside the event loop, in a thread of its own, within a time."""

from __future__ import annotations

from fastapi import Request

from ..engine.grammar.compiler import CompiledGrammar
from ..engine.grammar.errors import GrammarError
from ..protocol.errors import ApiError, bad_request
from ..protocol.structured import Structure
from ..state import ServerState
from ..streaming.sse import unless_gone


async def grammar_of(http: Request, asked: Structure | None, state: ServerState) -> CompiledGrammar | None:
    """Returns the grammar that replies follow, None for any text. Raises the 400."""
    if asked is None:
        return None
    if not state.model.info.eos_token_ids:
        raise bad_request(f"{asked.field}: this model has no end of sequence.", asked.field)
    work = state.offload.compile(lambda: state.model.grammars.compile(asked.grammar))
    try:
        return await unless_gone(http.receive, work)
    except GrammarError as error:
        raise refused(asked, error) from error
    except TimeoutError as error:
        raise bad_request(f"{asked.field}: takes too long to compile.", asked.field) from error


def check_grammar(asked: Structure, grammar: CompiledGrammar, max_tokens: int, ids: list[int]) -> None:
    """Raises the 400 where no reply of ``max_tokens`` tokens, or none with these first ids, follows it."""
    try:
        grammar.check_room(max_tokens)
        grammar.begin(ids)
    except GrammarError as error:
        raise refused(asked, error) from error


def refused(asked: Structure, error: GrammarError) -> ApiError:
    """Returns the refusal of a grammar by the name of its field."""
    return bad_request(f"{asked.field}: {error}.", asked.field)
