"""``decide``: the signals of a step in, a sampling decision for every row out.

Pure and batched: no ``.item()``, no Python ``if`` on data, so the same code serves the embedded engine, a
captured graph and a vLLM plugin. Rows may mix presets. Regions are those of the 2024 guide to Entropix with
a preset's cut points (known answers in tests/golden, group 03); the effect of a region is in
:mod:`entropick_sampler.formulas`.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .columns import PolicyMemory
from .compose import RANK_STEP, ROUNDING, ROW, SIDES, Composition, opening_table, rank_tables
from .profile import QUANTILE_LEVELS, Profile
from .stats import StepStats
from .strategy import STRATEGY_OFF, Strategy

_OFFSETS: Final = {name: field[1] for name, field in (ROW.fields or {}).items()}
_WORD: Final = 8
"""Bytes of a whole number or a float64 in a record."""


class Decision(NamedTuple):
    """The parameters of the next draw of every row; every field [B].

    ``strategy``: int64, a Strategy or STRATEGY_OFF. ``temperature`` 0 asks for the most probable token;
    ``top_k`` <= 0, ``top_p`` >= 1 and ``min_p`` <= 0 are filters that are off. ``insert_clarify``: bool, the
    clarifying text is to begin here.
    """

    strategy: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor
    n_candidates: Tensor
    insert_clarify: Tensor


class Constants(NamedTuple):
    """The numbers that all rows of all batches share, as tensors on a device, float64.

    ``sides`` [2, 5], ``rounding`` [5, 4], ``rank_step`` [Q - 1]: the arrays of :mod:`.compose` of these
    names. ``rank_low``, ``rank_scale`` [S, Q - 1]: the quantiles of a profile, as in :class:`.compose.Ranks`.
    ``opening_ids`` int64, ``opening_weights`` [K]: its opening weights (:class:`.opening.OpeningWeights`).
    """

    sides: Tensor
    rounding: Tensor
    rank_step: Tensor
    rank_low: Tensor
    rank_scale: Tensor
    opening_ids: Tensor
    opening_weights: Tensor


@functools.lru_cache(maxsize=16)
def _constants(profile: Profile | None, device: torch.device) -> Constants:
    """Returns the constants of a profile on a device, kept so that composing a batch copies none of them."""
    arrays = (SIDES, ROUNDING, RANK_STEP, *rank_tables(profile), *opening_table(profile))
    return Constants(*(torch.tensor(array).to(device) for array in arrays))


class PolicyRows(NamedTuple):
    """The resident tensors of a batch of B rows: the fields of its records.

    Named and shaped as in :data:`.compose.ROW`, which explains them, with B in front: float64; int64 for
    ``choices``, ``cooldown``, ``loop_length``, ``seed``, ``stream`` and ``figure``; bool for ``ranked``,
    ``opens``, ``unread`` and ``sets_min_p``. ``off``: the decision where no row's policy is on.
    ``any_ranked`` and ``all_ranked`` are known to the host and do not depend on device data.
    """

    cuts: Tensor
    clarify_weights: Tensor
    clarify_cut: Tensor
    coefficients: Tensor
    constants: Tensor
    low: Tensor
    high: Tensor
    choices: Tensor
    cooldown: Tensor
    loop_length: Tensor
    loop_temperature: Tensor
    seed: Tensor
    stream: Tensor
    ranked: Tensor
    opens: Tensor
    unread: Tensor
    figure: Tensor
    sets_min_p: Tensor
    inputs: Tensor
    terms: Tensor
    temperatures: Tensor
    shared: Constants
    off: Decision
    any_ranked: bool
    all_ranked: bool

    @classmethod
    def of(
        cls, composition: Composition, profile: Profile | None, device: torch.device | str = "cpu"
    ) -> PolicyRows:
        """Returns the tensors of a composition: one copy to the device, or none on the CPU."""
        device = torch.device(device)
        records = composition.records
        words = records.view(np.int64).reshape(len(records), ROW.itemsize // _WORD)
        resident = torch.from_numpy(words).to(device)
        fields = {name: _field(resident, name) for name in ROW.names or ()}
        temperature, top_p, top_k, min_p = fields["constants"][:, Strategy.ADAPTIVE].unbind(1)
        ones = torch.ones(len(records), dtype=torch.int64, device=device)
        none = torch.zeros(len(records), dtype=torch.bool, device=device)
        off = Decision(ones * STRATEGY_OFF, temperature, top_p, top_k.to(torch.int64), min_p, ones, none)
        return cls(
            **fields,
            shared=_constants(profile, device),
            off=off,
            any_ranked=composition.any_ranked,
            all_ranked=composition.all_ranked,
        )


def _field(words: Tensor, name: str) -> Tensor:
    """Returns a view of one field of all records, [B, ...]; ``words``: the records as int64 [B, words]."""
    dtype, offset = ROW[name], _OFFSETS[name]
    if dtype.base == np.uint8:
        field = words.view(torch.uint8)[:, offset : offset + dtype.itemsize].view(torch.bool)
    else:
        field = words[:, offset // _WORD : (offset + dtype.itemsize) // _WORD]
        field = field.view(torch.float64) if dtype.base == np.float64 else field
    return field.view(len(field), *dtype.shape) if dtype.shape else field.squeeze(1)


def quantile_ranks(stats: StepStats, shared: Constants) -> Tensor:
    """Returns the place of each signal among its quantiles, [B, S] in 0.01..0.99.

    0.5 where a signal was not measured, now or in calibration. Linear between the profile's quantiles; a run
    of equal quantiles is a step, so that a signal which is nearly always the same has a rank, too.
    """
    share = (stats.values.unsqueeze(-1) - shared.rank_low).mul_(shared.rank_scale).clamp_(0, 1)
    rank = share.mul_(shared.rank_step).sum(-1).add_(QUANTILE_LEVELS[0])
    return rank if stats.valid is None else rank.masked_fill_(~stats.valid, 0.5)


def decide(
    stats: StepStats,
    memory: PolicyMemory,
    rows: PolicyRows,
    may_clarify: Tensor | None = None,
    opening: Tensor | None = None,
) -> Decision:
    """Picks a strategy and the parameters of the draw for every row.

    ``stats``: [B, S]; ``memory``: the policy memory of the rows' sequences, which the caller must keep and
    update; ``may_clarify``: bool [B], False where no text can be inserted now (the strategy is then carried
    out by its raised temperature); ``opening``: float64 [B], the opening score of each row, -infinity where
    its token is not the first of a reply (None: in all rows). A row whose policy is off gets its base
    values and STRATEGY_OFF. Regions are asked in the order of Strategy and every comparison is strict; where
    they overlap (CLARIFY's with opening weights, others by overrides) the first takes the token. Where a
    profile has a discriminant, CLARIFY asks for it too, for every signal that it reads, and with opening
    weights for the first token of a reply. A reply that repeats its newest ``loop_length`` tokens is in a
    loop, of which a model is sure: it is never GREEDY, and its temperature is at least ``loop_temperature``.
    Formulas see raw signals under ``seed`` (0 where not measured) and quantile ranks under ``calibrated``
    (0.5).
    """
    # float64 once: each of these small operations costs its launch, whatever it computes
    stats = StepStats(stats.values.to(torch.float64), stats.valid)
    raw = x = stats.known
    if rows.any_ranked:
        x = quantile_ranks(stats, rows.shared)
        if not rows.all_ranked:
            x = torch.where(rows.ranked.unsqueeze(1), x, raw)

    # both sides of a comparison take the region's sign, which is exact
    hits = (stats.values[:, :2].unsqueeze(-1) * rows.shared.sides > rows.cuts).all(1)
    # the discriminant sees raw values: the tokens it tells apart lie in the tail, where ranks are all alike
    discriminant = (rows.clarify_weights * raw).sum(-1)
    if opening is None:
        clear = (discriminant > rows.clarify_cut).logical_and_(~rows.opens)
    else:
        clear = torch.where(rows.opens, discriminant + opening, discriminant) > rows.clarify_cut
    if stats.valid is not None:
        clear &= (stats.valid | rows.unread).all(-1)
    hits.select(1, int(Strategy.CLARIFY)).logical_and_(clear)
    looping = memory.repeated >= rows.loop_length
    hits.select(1, int(Strategy.GREEDY)).logical_and_(~looping)
    strategy = hits.view(torch.uint8).argmax(-1)  # the first of several

    # products row by row: a matrix product may sum in an order that depends on the batch
    cells = (rows.coefficients * x.unsqueeze(1).unsqueeze(1)).sum(-1).add_(rows.constants)
    cells = torch.clamp(cells, rows.low, rows.high).add_(rows.shared.rounding).sub_(rows.shared.rounding)
    here = strategy.view(-1, 1, 1)
    parameters = cells.gather(1, here.expand(-1, 1, cells.shape[2])).squeeze(1)
    temperature, top_p, top_k, min_p = parameters.unbind(1)
    temperature = torch.where(looping, torch.maximum(temperature, rows.loop_temperature), temperature)
    label, drawn, budget = rows.choices.gather(2, here.expand(-1, 3, 1)).squeeze(2).unbind(1)

    # the budget is 0 but under CLARIFY
    insert = (memory.clarify_used < budget).logical_and_(memory.since_clarify >= rows.cooldown)
    if may_clarify is not None:
        insert.logical_and_(may_clarify)
    return Decision(label, temperature, top_p, top_k.to(torch.int64), min_p, drawn, insert)
