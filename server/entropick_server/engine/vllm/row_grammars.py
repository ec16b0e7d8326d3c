"""The grammars of a worker's rows, compiled in the worker: a state cannot travel, its text and tokens can.

Knows nothing of vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from entropick_kernels.adjust.arrays import Masks

from ..base import Tokenizer
from ..grammar.compiler import GrammarCompiler
from ..grammar.errors import GrammarError
from ..grammar.masks import StepMasks
from ..grammar.state import GrammarState
from .wire import GrammarSpec

_UNKNOWN: Final = "the tokens of a reply that had to wait are not known any more"


class RowGrammars:
    """The compilers of a worker, for each set of tokens that may end a reply, and its masks."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """Prepares to compile; the model's tokens are read at the first grammar."""
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._compilers: dict[tuple[int, ...], GrammarCompiler] = {}
        self._masks = StepMasks(vocab_size)

    def masks(self, states: Sequence[GrammarState | None]) -> Masks | None:
        """Returns the masks of a step, a state for each row; None where no row follows a grammar."""
        return self._masks.take(states)

    def begin(self, asked: GrammarSpec, output: Sequence[int], taken: int) -> GrammarState:
        """Returns the state of a row's reply behind its ``taken`` tokens, which ``output`` begins with.

        A state that fails says so, and allows every token: the server checks what comes.
        """
        if asked.ends not in self._compilers:
            self._compilers[asked.ends] = GrammarCompiler(self._tokenizer, self._vocab_size, asked.ends)
        if len(output) < taken:
            return GrammarState(None, _UNKNOWN)
        try:
            compiled = self._compilers[asked.ends].compile(asked.grammar)
            return compiled.begin((*asked.written, *output[:taken]))
        except GrammarError as error:
            return GrammarState(None, str(error))
