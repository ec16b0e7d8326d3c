"""The surprisals of a prompt and its reply, as far as the server knows them. Knows nothing of vLLM.

The rows of later segments and of branches begin with them: their workers did not compute the prompt anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from entropick_kernels.attention_stats.costs import UNKNOWN

from ..types import PromptToken, Request, Token


class KnownSurprisals:
    """The surprisals of a request's tokens by position, bits; UNKNOWN of tokens whose figures were lost."""

    def __init__(self, prompt: int) -> None:
        """Begins behind a prompt of so many tokens; nothing stands before the first: it costs nothing."""
        self._bits = [0.0]
        self._length = prompt

    @classmethod
    def of(cls, request: Request) -> KnownSurprisals | None:
        """Begins where a request wants token costs. Returns None where it wants none."""
        wanted = request.policy.genuineness in (True, "seed")
        return cls(len(request.prompt_token_ids)) if wanted else None

    def tell_prompt(self, figures: Sequence[PromptToken]) -> None:
        """Tells the prompt's tokens behind the first, before any token of the reply."""
        # a rounded log probability may be above 0
        self._bits += [max(0.0, of_token.logprob / -math.log(2.0)) for of_token in figures]

    def append(self, token: Token) -> None:
        """Appends a token of the reply."""
        self._bits += [*[UNKNOWN] * (self._length - len(self._bits)), _bits(token)]
        self._length += 1

    def behind(self, branch: Sequence[Token] = ()) -> tuple[float, ...]:
        """Returns the known surprisals from position 0 on: of prompt, reply and, behind it, a branch."""
        missing = self._length - len(self._bits) if branch else 0
        return (*self._bits, *[UNKNOWN] * missing, *map(_bits, branch))


def _bits(token: Token) -> float:
    return UNKNOWN if token.surprisal is None else token.surprisal
