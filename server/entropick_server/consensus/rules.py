"""The end of the drawing and the reply that wins: functions of the votes in the order of their numbers.

Nothing here knows in which order replies came to their end, so a verdict is the same alone and in a batch.

Sources: ESC, arXiv 2401.10480 (windows); Adaptive-Consistency, arXiv 2305.11860 (Beta rule).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from entropick_sampler.branch import TIE, select

from .beta import beta_cdf
from .config import StopConfig
from .weights import Vote

Reason = Literal["agreed", "decided", "exhausted"]
"""why no further reply was drawn: the rule was content, no other answer could win, or k was reached"""
_MOST: Final = 1.0
"""the most that one vote can weigh"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a vote.

    ``winner``: number of the reply that comes back; ``answer``: None where no reply has an answer; ``share``:
    of the votes' weight, 0 to 1, None without an answer.
    """

    winner: int
    answer: str | None
    share: float | None
    reason: Reason


def tally(votes: Sequence[Vote], *, counts: bool = False) -> dict[str, float]:
    """Returns the weight of each answer (``counts``: its number of replies), in order of first appearance."""
    totals: dict[str, float] = {}
    for vote in votes:
        if vote.answer is not None:
            totals[vote.answer] = totals.get(vote.answer, 0.0) + (1.0 if counts else vote.weight)
    return totals


def stop_reason(rule: StopConfig, votes: Sequence[Vote], k: int) -> Reason | None:
    """Tells why the replies so far suffice; None where the next of at most ``k`` should be drawn.

    ``all`` draws k. ``esc`` stops behind a window of replies with one answer; windows follow each other.
    ``beta`` and ``weighted_beta`` stop where the leading answer is ahead of the second with enough
    probability, by count or by weight. ``cascade`` stops at reply 0 where that ended (with ``ended`` false:
    or was cut) with an answer of little surprisal, else it is ``weighted_beta``. Every rule but ``all`` also
    stops where no other answer can win.
    """
    number = len(votes)
    if number >= k:
        return "exhausted"
    if not number or rule.rule == "all":
        return None
    if _agreed(rule, votes):
        return "agreed"
    first, second = _leaders(tally(votes))
    # of equal weights the earlier answer would win, but which that is may hang on rounding
    return "decided" if first - second > (k - number) * _MOST + TIE else None


def _agreed(rule: StopConfig, votes: Sequence[Vote]) -> bool:
    if rule.rule == "esc":
        window = votes[-rule.window :]
        answers = {vote.answer for vote in window}
        return len(votes) % rule.window == 0 and len(answers) == 1 and None not in answers
    first = votes[0]
    if rule.rule == "cascade" and len(votes) == 1:
        whole = first.ended or not rule.ended
        return first.answer is not None and whole and first.answer_bits < rule.answer_bits
    ahead, behind = _leaders(tally(votes, counts=rule.rule == "beta"))
    # P(Beta(v1 + 1, v2 + 1) > 1/2), which is I_(1/2)(v2 + 1, v1 + 1)
    return beta_cdf(behind + 1.0, ahead + 1.0, 0.5) > rule.confidence


def _leaders(totals: dict[str, float]) -> tuple[float, float]:
    """Returns the two largest totals, 0 where there is none."""
    ordered = sorted(totals.values(), reverse=True)
    first, second, *_ = [*ordered, 0.0, 0.0]
    return first, second


def needed(rule: StopConfig, votes: Sequence[Vote], k: int) -> int:
    """Counts the further replies without which the rule cannot stop, however they turn out.

    Returns 0 where it stops now. That many can be drawn side by side, and none of them is drawn in vain.
    """
    if stop_reason(rule, votes, k) is not None:
        return 0
    totals = tally(votes)
    # nothing brings the end nearer than full votes for the answer that leads, by weight or by count, or that
    # the window has
    counts = tally(votes, counts=True)
    hopes = {max(t, key=t.__getitem__) for t in (totals, counts) if t}
    if rule.rule == "esc":
        hopes |= {vote.answer for vote in votes[len(votes) // rule.window * rule.window :] if vote.answer}
    for more in range(1, k - len(votes)):
        for hope in hopes or {""}:
            vote = Vote(hope, _MOST, ended=True, answer_bits=-math.inf)
            if stop_reason(rule, [*votes, *[vote] * more], k) is not None:
                return more
    return k - len(votes)


def judge(rule: StopConfig, votes: Sequence[Vote], k: int, *, similar: bool = False) -> Verdict:
    """Returns the verdict on votes that suffice; there must be a vote.

    The answer with the most weight wins, of equals (within TIE) the earliest; of its replies the heaviest
    comes back, of equals the lowest number. Without any answer reply 0 does. ``similar``: where k was reached
    the reply whose answer is most like all answers wins instead (:func:`likeness`). Raises ValueError where
    the rule wants further replies.
    """
    reason = stop_reason(rule, votes, k)
    if reason is None:
        raise ValueError("the rule wants further replies")
    totals = tally(votes)
    if not totals:
        return Verdict(0, None, None, reason)
    if similar and reason == "exhausted":
        likenesses = likeness(votes)
        winner = select(likenesses)
        return Verdict(winner, votes[winner].answer, likenesses[winner], reason)
    answer = list(totals)[select(list(totals.values()))]
    own = [number for number, vote in enumerate(votes) if vote.answer == answer]
    winner = own[select([votes[number].weight for number in own])]
    whole = math.fsum(totals.values())
    # where no vote weighs anything they count alike
    share = totals[answer] / whole if whole else len(own) / sum(vote.answer is not None for vote in votes)
    return Verdict(winner, answer, share, reason)


def likeness(votes: Sequence[Vote]) -> list[float]:
    """Returns how like each vote's answer is to all answers, its own included: 0 to 1, -1 of an abstention.

    It is the mean, by weight, of F1 over the two bags of words: minimum Bayes risk decoding with the votes as
    the model's distribution (Kumar and Byrne, NAACL 2004). Where answers share no words it is the share of
    the votes' weight.
    """
    bags = [Counter((vote.answer or "").split()) for vote in votes]
    columns = {word: column for column, word in enumerate(dict.fromkeys(w for bag in bags for w in bag))}
    counts = np.zeros((len(votes), len(columns)))
    for row, bag in enumerate(bags):
        counts[row, [columns[word] for word in bag]] = list(bag.values())
    answered = np.array([vote.answer is not None for vote in votes])
    weights = np.array([vote.weight for vote in votes]) * answered
    if not weights.any():
        weights = answered.astype(float)
    sizes = counts.sum(1)
    made = []
    for row, vote in enumerate(votes):
        if vote.answer is None:
            made.append(-1.0)
            continue
        f1 = 2.0 * np.minimum(counts, counts[row]).sum(1) / (sizes + sizes[row])
        made.append(float(f1 @ weights / weights.sum()))
    return made
