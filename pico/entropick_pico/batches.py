"""Training batches: the curriculum, length bucketing, and the loss with known truths."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from torch.nn import functional

from entropick_pico import grammar
from entropick_pico.grammar.world import words
from entropick_pico.tokenizer import Encoder, Row

CONTEXT: Final = 512
_POOL: Final = 1200

# Facts, random choices and sorting first; then sums and parities step by step; then everything.
_FIRST: Final = words(
    "capital flag coin season die color name town word home visit "
    "ambiguous clarified answerable sort greeting story"
)
_SECOND: Final = (*_FIRST, "add_steps", "parity_steps", "pick", "count")
_BOOST: Final[Mapping[str, float]] = MappingProxyType({"add_steps": 2.0, "parity_steps": 1.5, "sort": 1.5})


# Once everything is in, what is learned early needs less and what is computed needs more.
_LAST: Final[Mapping[str, float]] = MappingProxyType(
    {
        "capital": 0.6,
        "flag": 0.6,
        "ambiguous": 0.8,
        "greeting": 0.6,
        "add_direct": 0.7,
        "parity_direct": 0.7,
        "sort": 1.4,
        "parity_steps": 2.0,
        "lookup": 1.2,
        "count": 1.3,
        "pick": 1.6,
    }
)


def _boosted(kinds: Iterable[str], boost: Mapping[str, float]) -> Mapping[str, float]:
    return MappingProxyType({kind: grammar.WEIGHTS[kind] * boost.get(kind, 1.0) for kind in kinds})


def stage_weights(progress: float, first: float, second: float) -> Mapping[str, float]:
    """Returns the share of each kind at ``progress`` (0..1); stages end at ``first`` and ``second``."""
    if progress >= second:
        return _boosted(grammar.KINDS, _LAST)
    return _boosted(_FIRST if progress < first else _SECOND, _BOOST)


@dataclass(frozen=True)
class Batch:
    """The padded token ids of conversations, and the target distribution of every position that carries loss.

    Position ``rows[i], columns[i]`` predicts ``targets[i]``; where the true distribution is known, the
    sampled target has weight 0 in ``hard`` and the distribution stands in the three ``soft_*`` tensors
    (index into ``rows``, token, probability).
    """

    tokens: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    hard: torch.Tensor
    soft_at: torch.Tensor
    soft_token: torch.Tensor
    soft_p: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """Returns the batch on ``device``."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Pads rows to the same length and gathers the positions that carry loss."""
    width = max(len(row.ids) for row in rows)
    tokens = torch.full((len(rows), width), pad)
    where: list[tuple[int, int, int, float]] = []
    soft: list[tuple[int, int, float]] = []
    for number, row in enumerate(rows):
        tokens[number, : len(row.ids)] = torch.tensor(row.ids)
        known = {at: (ids, probabilities) for at, ids, probabilities, _ in row.truths}
        for at, counts in enumerate(row.loss):
            if not counts:
                continue
            truth = known.get(at)
            if truth is not None:
                soft += [(len(where), token, p) for token, p in zip(*truth, strict=True)]
            where.append((number, at - 1, row.ids[at], 0.0 if truth is not None else 1.0))
    row_at, column, target, hard = zip(*where, strict=True)
    soft_at, soft_token, soft_p = zip(*soft, strict=True) if soft else ((), (), ())
    return Batch(
        tokens,
        torch.tensor(row_at),
        torch.tensor(column),
        torch.tensor(target),
        torch.tensor(hard),
        torch.tensor(soft_at, dtype=torch.long),
        torch.tensor(soft_token, dtype=torch.long),
        torch.tensor(soft_p),
    )


def expected_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Returns the mean cross entropy, taken in expectation wherever the grammar knows the true distribution.

    In expectation it is the loss on sampled targets; using the truth itself removes the sampling noise.
    """
    log_p = functional.log_softmax(logits.float(), dim=-1)
    sampled = log_p.gather(1, batch.targets[:, None])[:, 0] * batch.hard
    known = log_p[batch.soft_at, batch.soft_token] * batch.soft_p
    return -(sampled.sum() + known.sum()) / len(batch.targets)


def rows(
    encoder: Encoder,
    rng: random.Random,
    weights: Mapping[str, float],
    count: int,
    interruptions: float = 0.05,
) -> list[Row]:
    """Returns ``count`` encoded conversations that fit the training context."""
    found: list[Row] = []
    while len(found) < count:
        talk = grammar.conversation(rng, weights=weights, interruptions=interruptions)
        system = rng.choice(grammar.SYSTEM_TEXTS) if rng.random() < 0.06 else None
        row = encoder.encode_talk(talk, system)
        if len(row.ids) <= CONTEXT:
            found.append(row)
    return found


def stream(
    encoder: Encoder, rng: random.Random, pad: int, size: int, weights: Mapping[str, float]
) -> Iterator[Batch]:
    """Yields batches of at most ``size`` tokens with padding, of conversations of similar length; endless."""
    while True:
        pool = sorted(rows(encoder, rng, weights, _POOL), key=lambda row: len(row.ids))
        batches: list[list[Row]] = [[]]
        for row in pool:
            if batches[-1] and (len(batches[-1]) + 1) * len(row.ids) > size:
                batches.append([])
            batches[-1].append(row)
        if len(batches) > 1:
            batches.pop()
        rng.shuffle(batches)
        for chosen in batches:
            yield collate(chosen, pad)
