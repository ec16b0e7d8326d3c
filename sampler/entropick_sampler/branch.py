"""The rules of branches: when they open, how a trajectory is scored, and which branch is kept. Pure Python.

At a branching step the first tokens of ``width`` branches are drawn from one distribution; branch 0 takes the
token that would have been emitted without branches. Each branch is rolled out to ``depth`` tokens, the
branching token among them, or to the text or the end that ``until`` names, then scored as a whole; the tokens
of the best branch are committed. Knows no tensors and no engine: the engine that rolls branches out fills a
:class:`Trajectory` for each.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from . import reply_scores
from .branch_config import DEFAULT_DEPTH, BranchConfig, Scorer
from .strategy import Strategy

TIE: Final = 1e-4
"""Scores this near are equal: branches that share tokens share figures, up to a rounding that depends on the
rows which were computed beside them."""


def allowance(config: BranchConfig, max_tokens: int) -> int:
    """Returns the number of tokens that the losing branches of a request may cost."""
    return int(config.budget * max_tokens)


def opens(config: BranchConfig, strategy: Strategy | None, max_tokens: int, spent: int, room: int) -> int:
    """Returns the number of tokens that each branch may have if branches open here, 0 where they do not.

    ``spent``: tokens of losing branches so far; ``room``: tokens that the request may still emit, this token
    included. Branches open where the strategy asks for it and the budget holds all that they can cost, as if
    none of them ended before its depth; the depth shrinks to the room, never to the budget.
    """
    if strategy is None or strategy not in config.on:
        return 0
    longest = room if config.until is not None else DEFAULT_DEPTH
    depth = min(room, longest if config.depth is None else config.depth)
    cost = (config.width - 1) * depth
    return depth if depth >= 1 and spent + cost <= allowance(config, max_tokens) else 0


def runner_up(token: int, logprob: float, firsts: Sequence[tuple[int, float]]) -> float:
    """Returns the probability of the likeliest other first token, as a share of branch 0's first token.

    ``token`` and ``logprob`` (nats): branch 0's; ``firsts``: id and log probability of the other branches'.
    Between 0 and 1: 0 where all branches begin with one token, 1 where another branch begins with a token
    that is at least as probable, be branch 0's an unlucky draw.
    """
    others = [p for other, p in firsts if other != token]
    return math.exp(min(0.0, max(others) - logprob)) if others else 0.0


def in_doubt(config: BranchConfig, entropy: float | None, share: float) -> bool:
    """Tells whether a look ahead can change the outcome at a token, as far as the configuration asks.

    ``entropy``: bits, of the token's distribution, None where it is not known; ``share``: its
    :func:`runner_up`.
    """
    if config.min_entropy and (entropy is None or entropy < config.min_entropy):
        return False
    return not config.min_runner_up or share >= config.min_runner_up


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The tokens of one branch and their figures, the branching token first.

    All fields have the same length, at least 1. ``logprobs``: nats, of the measured distribution.
    ``entropies``: bits, of the distribution that each token was drawn from. ``confidences``: the guide's
    (``score.seed_confidence``) at each of these steps.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]
    entropies: Sequence[float]
    confidences: Sequence[float]


def mean_logprob(branch: Trajectory) -> float:
    """Returns the mean log probability of the tokens, the branching token INCLUDED; nats."""
    return reply_scores.mean_logprob([-p for p in branch.logprobs])


def confidence(branch: Trajectory) -> float:
    """Returns the entropy at the branching token minus the mean entropy after it; bits.

    It says how much surer the model became; 0 for a branch of a single token.
    """
    if len(branch.entropies) == 1:
        return 0.0
    return branch.entropies[0] - statistics.fmean(branch.entropies[1:])


def lowest_group(branch: Trajectory) -> float:
    """Returns the lowest mean log probability of a sliding group of tokens, nats: the worst passage."""
    return reply_scores.lowest_group([-p for p in branch.logprobs])


def mean_excess(branch: Trajectory) -> float:
    """Returns minus the mean excess surprisal of the tokens, the branching token INCLUDED; bits."""
    return reply_scores.mean_excess(_surprisals(branch), branch.entropies)


def lowest_excess(branch: Trajectory) -> float:
    """Returns minus the largest excess surprisal of a token, bits; the worst token decides."""
    return reply_scores.lowest_excess(_surprisals(branch), branch.entropies)


def lowest_group_excess(branch: Trajectory) -> float:
    """Returns minus the largest mean excess surprisal of a sliding group of tokens, bits."""
    return reply_scores.lowest_group_excess(_surprisals(branch), branch.entropies)


def seed_score(branch: Trajectory) -> float:
    """Returns the mean of the guide's score (log probability + confidence of the step) over the branch."""
    return statistics.fmean(p + c for p, c in zip(branch.logprobs, branch.confidences, strict=True))


def _surprisals(branch: Trajectory) -> list[float]:
    return [-p / math.log(2.0) for p in branch.logprobs]


def _finite(branch: Trajectory) -> bool:
    return all(map(math.isfinite, (*branch.logprobs, *branch.entropies)))


def token_f1(a: Sequence[int], b: Sequence[int]) -> float:
    """Returns the overlap of two token sequences as bags, 0..1 (the F1 of SQuAD, Rajpurkar et al. 2016)."""
    shared = (Counter(a) & Counter(b)).total()
    return 2.0 * shared / (len(a) + len(b)) if a or b else 1.0


def _agreement_with_others(branches: Sequence[Trajectory], i: int) -> float:
    others = [token_f1(branches[i].tokens, b.tokens) for j, b in enumerate(branches) if j != i]
    return statistics.fmean(others) if others else 1.0


def scores(scorer: Scorer, branches: Sequence[Trajectory]) -> list[float]:
    """Returns the score of every branch, of which the highest is the best.

    Scorer ``vote``: the mean overlap with the other branches. The other scorers give NaN for a branch with a
    log probability or an entropy that is not finite (its figures were lost). Raises ValueError for no branch,
    a branch without a token, or lists of other lengths.
    """
    for b in branches:
        if not len(b.tokens) == len(b.logprobs) == len(b.entropies) == len(b.confidences) >= 1:
            raise ValueError("a branch holds at least one token, and one figure of each kind for every token")
    if not branches:
        raise ValueError("no branch to score")
    if scorer == "vote":
        return [_agreement_with_others(branches, i) for i in range(len(branches))]
    rule = {
        "mean_logprob": mean_logprob,
        "confidence": confidence,
        "lowest_group": lowest_group,
        "mean_excess": mean_excess,
        "lowest_excess": lowest_excess,
        "lowest_group_excess": lowest_group_excess,
        "seed": seed_score,
    }[scorer]
    return [rule(b) if _finite(b) else math.nan for b in branches]


def select(scored: Sequence[float]) -> int:
    """Returns the branch to keep: the lowest number among the branches within TIE of the highest score.

    A NaN never wins over a number.
    """
    numbers = [score for score in scored if score == score]
    if not numbers:
        return 0
    least = max(numbers) - TIE
    return next(i for i, score in enumerate(scored) if score >= least)
