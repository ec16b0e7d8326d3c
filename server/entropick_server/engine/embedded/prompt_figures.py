"""The log probabilities of a prompt's tokens, as they become known chunk by chunk.

Knows nothing of tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..types import PromptToken, Request


@dataclass(slots=True)
class PromptFigures:
    """The figures of a prompt's tokens behind its first, as far as they are known.

    ``wanted``: the most probable tokens to find beside each. ``found``: of token 1, 2, ... ``told``: whether
    an output told them.
    """

    wanted: int
    found: list[PromptToken | None]
    told: bool = False

    @classmethod
    def of(cls, request: Request) -> PromptFigures | None:
        """Makes the figures, none of them known, of a request that wants them. Returns None for others."""
        wanted = request.sampling.prompt_logprobs
        return None if wanted is None else cls(wanted, [None] * (len(request.prompt_token_ids) - 1))

    @property
    def complete(self) -> bool:
        """Tells whether every figure is known."""
        return None not in self.found

    def lacks(self, at: int) -> bool:
        """Tells whether the figures of token ``at`` (from 1) are wanted and not known."""
        return at <= len(self.found) and self.found[at - 1] is None

    def tell(self) -> tuple[PromptToken, ...]:
        """Returns the figures for the request's first output, () for later outputs."""
        if self.told:
            return ()
        self.told = True
        return tuple(token for token in self.found if token is not None)
