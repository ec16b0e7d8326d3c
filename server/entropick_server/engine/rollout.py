"""The branches of a token, on every engine: whether they open, and which of them is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from entropick_sampler.branch import Trajectory, in_doubt, opens, runner_up, scores, select
from entropick_sampler.branch_config import UNTIL_END, BranchConfig
from entropick_sampler.score import host_confidence
from entropick_sampler.signals import SIGNAL_NAMES

from .reply import Drawn
from .tokens import drawn_beside
from .types import BranchRecord, Request, Token

_ENTROPY = SIGNAL_NAMES.index("logits_entropy")


def rollout_depth(request: Request, drawn: Drawn, spent: int, room: int) -> int:
    """Counts the tokens that each branch may have if branches open at a drawn token.

    ``spent``: tokens of the request's losing branches so far; ``room``: tokens that its reply may still get,
    this one included. Returns 0 where no branches open.
    """
    config = request.policy.branch
    token = drawn.token
    if config is None or not drawn.firsts or not token.chosen:
        return 0
    others = [(token_id, logprob) for token_id, logprob, _ in drawn.firsts[: config.width - 1]]
    if not in_doubt(config, token.signals[_ENTROPY], runner_up(token.token_id, token.logprob, others)):
        return 0
    return opens(config, token.strategy, request.sampling.max_tokens, spent, room)


def branch_ends(request: Request) -> tuple[bytes, ...]:
    """Lists the texts that end a branch before its depth, () where branches are rolled out to their depth.

    The stop strings of the request are among them: what follows one is not part of the reply.
    """
    config = request.policy.branch
    if config is None or config.until is None:
        return ()
    until = () if config.until == UNTIL_END else (config.until,)
    return tuple(text.encode() for text in (*until, *request.sampling.stop))


def first_tokens(request: Request, drawn: Drawn) -> list[Token]:
    """Lists the first tokens of branches 1, 2, ... that open beside a drawn token."""
    config = request.policy.branch or BranchConfig()
    return [drawn_beside(drawn.token, *first) for first in drawn.firsts[: config.width - 1]]


class RolledOut(NamedTuple):
    """A branch at the end of its rollout: its number, its tokens from the branching token on."""

    number: int
    tokens: Sequence[Token]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a rollout.

    ``winner``: its index in the list of branches that was judged. ``tokens``: the winner's; the first one
    carries the records of all branches. ``lost``: tokens of the other branches.
    """

    winner: int
    tokens: tuple[Token, ...]
    lost: int


def judge(request: Request, branches: Sequence[RolledOut]) -> Verdict | None:
    """Scores the branches of a rollout and picks the best branch that did not fail.

    Returns None where all of them failed.
    """
    policy = request.policy
    sound = [i for i, branch in enumerate(branches) if not branch.failed]
    if not sound:
        return None
    scorer = (policy.branch or BranchConfig()).scorer
    scored = scores(scorer, [_trajectory(branches[i].tokens) for i in sound])
    winner = sound[select(scored)]
    tokens = tuple(branches[winner].tokens)
    records = tuple(
        BranchRecord(tuple(t.token_id for t in branches[i].tokens), score, i == winner)
        for i, score in zip(sound, scored, strict=True)
    )
    tokens = (replace(tokens[0], branches=records), *tokens[1:])
    lost = sum(len(branch.tokens) for i, branch in enumerate(branches) if i != winner)
    return Verdict(winner, tokens, lost)


def _trajectory(tokens: Sequence[Token]) -> Trajectory:
    """Collects the figures of a branch's tokens, of which those that were the only choice say nothing."""
    # the token where the branches opened was chosen
    tokens = [token for token in tokens if not token.only_choice] or tokens
    return Trajectory(
        [t.token_id for t in tokens],
        [t.logprob for t in tokens],
        [t.signals[_ENTROPY] or 0.0 for t in tokens],
        [host_confidence(t.signals) for t in tokens],
    )
