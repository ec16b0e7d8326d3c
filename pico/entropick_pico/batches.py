"""Training batches: length bucketing, the order of the data, and the loss with known truths."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from entropick_pico import grammar
from entropick_pico.recipe import STAGES, Recipe, Stage
from entropick_pico.tokenizer import Encoder, Row

CONTEXT: Final = 512
_POOL: Final = 1200


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
    stage: Stage,
    count: int,
    interruptions: float = 0.05,
) -> list[Row]:
    """Returns ``count`` encoded conversations of ``stage`` that fit the training context."""
    found: list[Row] = []
    while len(found) < count:
        talk = grammar.conversation(
            rng, weights=stage.weights, interruptions=interruptions, with_tools=stage.tools
        )
        system = rng.choice(grammar.SYSTEM_TEXTS) if rng.random() < 0.06 else None
        row = encoder.encode_talk(talk, system)
        if len(row.ids) <= CONTEXT:
            found.append(row)
    return found


def pool(encoder: Encoder, rng: random.Random, pad: int, size: int, stage: Stage) -> list[Batch]:
    """Returns batches of at most ``size`` tokens with padding, of conversations of similar length."""
    batches: list[list[Row]] = [[]]
    for row in sorted(rows(encoder, rng, stage, _POOL), key=lambda row: len(row.ids)):
        if batches[-1] and (len(batches[-1]) + 1) * len(row.ids) > size:
            batches.append([])
        batches[-1].append(row)
    if len(batches) > 1:
        batches.pop()
    rng.shuffle(batches)
    return [collate(chosen, pad) for chosen in batches]


@dataclass(frozen=True)
class Place:
    """A place in the data of a run: the stage, the pool of the stage, and the next batch of the pool."""

    stage: int = 0
    pool: int = 0
    batch: int = 0


def stream(
    encoder: Encoder, recipe: Recipe, pad: int, start: int, place: Place
) -> Iterator[tuple[Batch, Place]]:
    """Yields a batch for each step from ``start`` to the end of the run, with the place after it.

    Every pool has a seed of its own, so a run that goes on from ``place`` sees the batches of an
    uninterrupted one.
    """

    def draw(at: Place) -> list[Batch]:
        rng = random.Random(f"{recipe.seed} {at.stage} {at.pool}")
        return pool(encoder, rng, pad, recipe.batch_tokens, STAGES[at.stage])

    batches: list[Batch] = []
    for step in range(start, recipe.steps):
        stage = recipe.stage(step)
        if stage != place.stage:
            place, batches = Place(stage), []
        if not batches:
            batches = draw(place)
        if place.batch == len(batches):
            place = Place(stage, place.pool + 1)
            batches = draw(place)
        batch = batches[place.batch]
        place = Place(stage, place.pool, place.batch + 1)
        yield batch, place
