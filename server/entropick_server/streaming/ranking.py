"""Which of a prompt's completions come back where ``best_of`` asked for more than ``n``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from entropick_sampler.branch import select

from .run import Run


def mean_logprob(run: Run) -> float:
    """Returns the mean log probability (nats, measured distribution) of a finished choice's tokens.

    The ending token counts; tokens that had no alternative do not, where there are others. It is OpenAI's
    "highest log probability per token"; a sum would favour short completions.
    """
    chosen = [reply for reply in run.tokens if not reply.token.only_choice]
    return statistics.fmean(reply.token.logprob for reply in chosen or run.tokens)


def best(runs: Sequence[Run], n: int) -> list[Run]:
    """Returns the ``n`` best of one prompt's completions, the best first; of two equals the earlier."""
    left = list(runs)
    return [left.pop(select([mean_logprob(run) for run in left])) for _ in range(n)]
