"""A finished choice token by token: the rule that picked each token, in words and with its numbers."""

from __future__ import annotations

from typing import Any

from entropick_sampler.compose import ResolvedPolicy, resolve_policy
from entropick_sampler.explain import PolicyWords, policy_numbers
from entropick_sampler.profile import Profile
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_sampler.strategy import Strategy

from .engine.reply import ClarifyingText
from .engine.types import BranchRecord
from .recent import Finished
from .rewind import Piece, facts_of
from .vocabulary import Vocabulary

_PARAMETERS = ("temperature", "top_p", "top_k", "min_p", "n_candidates")


def numbers_in_force(finished: Finished, profile: Profile | None) -> dict[str, float]:
    """Returns the numbers of a choice's policy: thresholds, base values and limits, or its formula's."""
    return policy_numbers(_policy(finished, profile))


def explanation(
    finished: Finished, profile: Profile | None, clarifying: ClarifyingText, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Returns a choice with a row for each token, as /v1/requests/{id}/explanation shows it.

    ``profile``, ``clarifying``: those in force while it was generated.
    """
    policy = _policy(finished, profile)
    words = PolicyWords(policy, finished.policy.policy)
    columns = finished.series.columns(vocabulary)
    facts, pieces = facts_of(finished, clarifying)
    rollouts = dict(finished.branches)
    rows = []
    for n, index in enumerate(columns["index"]):
        signals = {name: columns[name][n] for name in SIGNAL_NAMES if columns[name][n] is not None}
        label = columns["strategy"][n]
        strategy = None if label is None else Strategy[label.upper()]
        piece = next((p for p in pieces if p.begin <= index < p.end), None)
        row: dict[str, Any] = {
            **{name: columns[name][n] for name in ("index", "token", "token_id", "strategy", "forced")},
            "parameters": {name: columns[name][n] for name in _PARAMETERS},
            "signals": signals,
            "probability": None if "surprisal" not in signals else 2.0 ** -signals["surprisal"],
        }
        if columns["forced"][n] and not facts[index].clarifies:
            rule = "named by the request" if strategy is not Strategy.CLARIFY else "of the clarifying text"
            row |= {"rule": rule, "words": {}}
        else:
            told = words.explain(strategy, signals)
            row |= {"rule": told.rule, "words": {} if columns["forced"][n] else dict(told.parameters)}
        row["how"] = _how(row, facts[index].clarifies)
        if records := rollouts.get(index):
            row["branches"] = [_branch(record, vocabulary) for record in records]
        elif piece is not None and piece.kind == "rollout":
            row["rollout"] = _of_rollout(piece, rollouts[piece.begin])
        rows.append(row)
    return {
        **finished.head(),
        "text": finished.text,
        "policy_parameters": policy_numbers(policy),
        "tokens": rows,
    }


def _policy(finished: Finished, profile: Profile | None) -> ResolvedPolicy:
    return resolve_policy(finished.sampling, finished.policy, profile)


def _how(row: dict[str, Any], begins_text: bool) -> str:
    """Returns the way in which a token came into the reply."""
    if begins_text:
        return "the clarifying text begins: given, not drawn"
    if row["forced"]:
        return "given, not drawn"
    used = row["parameters"]
    if used["temperature"] == 0:
        return "the most probable token"
    if (used["n_candidates"] or 1) > 1:
        return f"the most probable of {used['n_candidates']} draws"
    return "drawn"


def _branch(record: BranchRecord, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "text": vocabulary.text(record.token_ids),
        "tokens": len(record.token_ids),
        "score": record.score if abs(record.score) < float("inf") else None,
        "chosen": record.chosen,
    }


def _of_rollout(piece: Piece, records: tuple[BranchRecord, ...]) -> dict[str, int]:
    """Returns the opening of the rollout that a token lies in, and the number of the branch that was kept."""
    kept = next(number for number, record in enumerate(records) if record.chosen)
    return {"opened_at": piece.begin, "kept": kept}
