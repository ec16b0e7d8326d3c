"""From a grammar's text to the state that replies begin with. llguidance does the work, within bounds."""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from ..base import Tokenizer
from .bounds import MAX_BYTES, MAX_ENUM, MAX_PATTERN, check_forced, check_size, forced_by, read_schema
from .errors import GrammarError, in_words
from .shortest import shortest
from .spec import ANY_OBJECT, Grammar
from .state import GrammarState
from .tags import TaggedText
from .tokens import GrammarTokens

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_LAYOUT: Final[JsonCompileOptions] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""one way to write a document: a choice of blanks is no uncertainty of the answer, and a model that is free
to write blanks may write nothing else; a schema's ``x-guidance`` comes before it"""
_KEPT: Final = 64
"""compiled grammars that are kept, the newest"""
_LEXER_STATES: Final = 20_000
"""of one reply, some kilobytes each"""
_SPECIAL: Final = re.compile(r"[\\.+*?()|\[\]{}^$#&~-]")
"""characters that mean something in a regular expression of llguidance's"""


@dataclass(frozen=True, slots=True, eq=False)
class CompiledGrammar:
    """A grammar that replies can begin with.

    ``source``: what it was compiled from; ``ends``: tokens that may end a reply; ``forced``: characters that
    a reply has at least in one place, by the keyword ``forced_by``; ``longest``: bytes of the longest token.
    """

    source: Grammar
    ends: tuple[int, ...]
    forced: int
    forced_by: str
    longest: int
    _matcher: LLMatcher

    def begin(self, token_ids: Sequence[int] = ()) -> GrammarState:
        """Returns the state behind the first tokens of a reply. Raises GrammarError where they break it."""
        matcher = self._matcher.deep_copy()
        for number, token_id in enumerate(token_ids):
            if not matcher.consume_token(token_id):
                raise GrammarError(f"token {number} of the reply, {token_id}, breaks the grammar")
        return GrammarState(matcher)

    def check_room(self, max_tokens: int) -> None:
        """Raises GrammarError where no reply of ``max_tokens`` tokens can hold the forced characters."""
        if math.ceil(self.forced / self.longest) > max_tokens:
            raise GrammarError(
                f"{self.forced_by} asks for at least {self.forced} characters, more than max_tokens "
                f"({max_tokens}) can hold"
            )


class GrammarCompiler:
    """A compiler of grammars for the tokens of one model. The newest grammars are kept compiled.

    One thread at a time may use it.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """Prepares a compiler; the tokens are read at the first grammar.

        ``vocab_size``: columns of the logits; ``eos_token_ids``: tokens that may end a reply.
        """
        self._source = tokenizer, vocab_size, tuple(eos_token_ids)
        self._tokens: GrammarTokens | None = None
        self._kept: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._limits = LLParserLimits(max_lexer_states=_LEXER_STATES, verbose_errors=False)

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Compiles a grammar within bounds.

        Raises GrammarError for a grammar that is malformed, not supported, out of bounds or without a text.
        """
        if (known := self._kept.get(grammar)) is not None:
            self._kept.move_to_end(grammar)
            return known
        if self._tokens is None:
            self._tokens = GrammarTokens.of(*self._source)
        text, forced, name = _text_of(grammar, self._tokens.special)
        matcher = LLMatcher(self._tokens.tokenizer, text, log_level=0, limits=self._limits)
        _check(matcher)
        check_forced(forced, name)
        words = np.zeros((self._source[1] + 31) // 32, np.int32)
        matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        # a loop of references shows itself here first
        _check(matcher)
        compiled = CompiledGrammar(grammar, self._source[2], forced, name, self._tokens.longest, matcher)
        self._kept[grammar] = compiled
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return compiled


def _check(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise GrammarError(in_words(matcher.get_error()))


def _text_of(grammar: Grammar, special: Mapping[str, int]) -> tuple[str, int, str]:
    """Returns llguidance's text of a grammar, the characters that it forces, and by which keyword.

    ``special``: the model's special tokens by their names.
    """
    match grammar.kind:
        case "json_object":
            return _json_grammar(ANY_OBJECT), 0, ""
        case "json_schema":
            schema = _read(grammar.text)
            return _json_grammar("{}" if schema is True else grammar.text), *forced_by(schema)
        case "regex":
            check_size(grammar.text, MAX_PATTERN, "characters")
            if not grammar.text:
                raise GrammarError("must not be empty")
            return LLMatcher.grammar_from_regex(grammar.text), shortest(grammar.text), "the expression"
        case "choice":
            return _choice(grammar.text)
        case "tag":
            tagged = TaggedText.parse(grammar.text)
            for tag in tagged.tags:
                check_forced(*forced_by(read_schema(json.dumps(tag.schema))))
            if tagged.otherwise is not None:
                check_forced(*forced_by(_read(tagged.otherwise)))
            return LLMatcher.grammar_from_lark(tagged.lark(_LAYOUT, special)), 0, ""


def _read(text: str) -> Any:
    """Returns a schema that allows a text. Raises GrammarError for others, and for one out of bounds."""
    schema = read_schema(text)
    if schema is False:
        raise GrammarError("the schema false allows no text")
    return schema


def _json_grammar(schema: str) -> str:
    # the text as it came: a deep one is an error there, where a deep Python object is a crash
    try:
        return LLMatcher.grammar_from_json_schema(schema, defaults=_LAYOUT)
    except ValueError as error:
        raise GrammarError(in_words(str(error))) from error


def _choice(text: str) -> tuple[str, int, str]:
    check_size(text, MAX_BYTES, "bytes")
    choices = json.loads(text)
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise GrammarError("must be a list of strings that are not empty")
    if len(choices) > MAX_ENUM:
        raise GrammarError(f"has {len(choices)} choices; at most {MAX_ENUM} are served")
    pattern = "|".join(_SPECIAL.sub(lambda char: "\\" + char[0], choice) for choice in choices)
    return LLMatcher.grammar_from_regex(pattern), min(map(len, choices)), "the shortest choice"
