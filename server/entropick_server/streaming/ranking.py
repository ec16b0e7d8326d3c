"""Which of a prompt's completions come back where ``best_of`` asked for more than ``n``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from entropick_sampler.branch import select

from .choice import Choice


def mean_logprob(choice: Choice) -> float:
    """Mean log probability (nats, measured distribution) of a finished choice's tokens, its end included.

    OpenAI's "highest log probability per token"; a sum would favour short completions.
    """
    return statistics.fmean(token.logprob for token in choice.tokens)


def best(choices: Sequence[Choice], n: int) -> list[Choice]:
    """The ``n`` best of the finished completions of one prompt, the best first; of equal ones the earlier."""
    left = list(choices)
    return [left.pop(select([mean_logprob(choice) for choice in left])) for _ in range(n)]
