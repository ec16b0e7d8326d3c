"""The sentences of the section ``weights``: unusual figures, each beside its null."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import mean, median
from typing import Final

from .matrices import GAUSSIAN_BELOW_TENTH, GAUSSIAN_HOYER
from .weight_terrain import HeadSymmetry, PartCosines, WeightTerrain

_COPY: Final = 0.99
_KIND: Final = 0.3
"""A head's sign balance beyond this names it."""


def sentences(found: WeightTerrain) -> tuple[str, ...]:
    """Describes the weights of a model with numbers, faults first."""
    parts = (_faults, _neurons, _copies, _spectra, _sparsity, _heads, _norms)
    return tuple(sentence for part in parts for sentence in part(found))


def _faults(found: WeightTerrain) -> Iterator[str]:
    for one in found.matrices:
        if one.not_finite:
            yield (
                f"Layer {one.layer}, {one.part}: {one.not_finite} entries are not finite: the weights are damaged."
            )
        elif one.spectrum is None:
            yield f"Layer {one.layer}, {one.part}: every entry is zero."


def _neurons(found: WeightTerrain) -> Iterator[str]:
    known = [(layer, one) for layer, one in enumerate(found.neurons) if one is not None]
    dead, weak = sum(one.dead for _, one in known), sum(one.weak for _, one in known)
    total = sum(one.neurons for _, one in known)
    if dead:
        places = [
            f"layer {layer}: {', '.join(map(str, one.dead_ids[:5]))}" for layer, one in known if one.dead
        ]
        yield (
            f"{dead} of {total:,} neurons are dead (product of norms below 1 % of the layer's mean): "
            + "; ".join(places[:5])
            + "."
        )
    yield f"{weak} of {total:,} neurons are weak (below 10 % of the layer's mean)" + (
        "." if dead else ", none is dead."
    )


def _copies(found: WeightTerrain) -> Iterator[str]:
    for one in found.cosines:
        yield from _copied(one)
    alike = [
        (abs(one.cosines.flat[a][b]) / one.cosines.flat_null, one, a, b)
        for one in found.cosines
        if one.cosines.flat_extreme is not None
        for a, b in [one.cosines.flat_extreme]
    ]
    if alike:
        times, one, a, b = max(alike, key=lambda entry: entry[0])
        yield (
            f"Entry by entry the most alike matrices are {one.part} of the layers {a} and {b}: cosine "
            f"{one.cosines.flat[a][b]:.4f}, {times:.0f} deviations of independent weights "
            f"({one.cosines.flat_null:.5f})."
        )
    for one in found.cosines:
        pair = one.cosines.gram_extreme
        if one.part in ("q", "gate") and pair is not None:
            values = [one.cosines.gram[a][b] for a in range(found.layers) for b in range(a)]
            yield (
                f"Without regard to the order of neurons (cosine of the traceless W^T W) {one.part} of two "
                f"layers is "
                f"{median(values):.3f} alike in the median, {max(values):.3f} at most (layers {pair[0]} and "
                f"{pair[1]}; random symmetric matrices 0 ± {one.cosines.gram_null:.4f})."
            )


def _copied(one: PartCosines) -> Iterator[str]:
    layers = len(one.cosines.flat)
    for a in range(layers):
        for b in range(a + 1, layers):
            if one.cosines.flat[a][b] > _COPY:
                yield f"{one.part} of layer {b} copies layer {a}'s (cosine {one.cosines.flat[a][b]:.4f})."
            elif one.cosines.gram and one.cosines.gram[a][b] > _COPY:
                yield (
                    f"{one.part} of layer {b} is layer {a}'s in another order or rotation: entry by entry "
                    f"{one.cosines.flat[a][b]:.4f}, of W^T W {one.cosines.gram[a][b]:.4f}."
                )


def _spectra(found: WeightTerrain) -> Iterator[str]:
    known = [(one, one.spectrum) for one in found.matrices if one.spectrum is not None]
    if not known:
        return
    estimated = " (estimates)" if known[0][1].estimated else ""
    parts = dict.fromkeys(one.part for one, _ in known)
    ratios = {
        part: [s.participation_ratio / s.size for one, s in known if one.part == part] for part in parts
    }
    yield (
        f"The singular values' participation ratio / size{estimated}, mean over the layers: "
        + ", ".join(f"{part} {mean(values):.2f}" for part, values in ratios.items())
        + " (a square Gaussian matrix: 0.72; a wide one nears 1)."
    )
    lowest, s = min(known, key=lambda entry: entry[1].stable_rank / entry[1].size)
    yield (
        f"The lowest stable rank for its size is {lowest.part}'s in layer {lowest.layer}: "
        f"{s.stable_rank:.1f} of "
        f"{s.size}; 90 % of the sum of its singular values lie in {s.rank90}."
    )
    ill = [(one, s) for one, s in known if s.condition is not None and s.condition > 1e4]
    if ill:
        worst, s = max(ill, key=lambda entry: entry[1].condition or 0.0)
        yield (
            f"{len(ill)} of {len(known)} matrices have a condition above 10,000, the worst {worst.part} in "
            f"layer "
            f"{worst.layer} ({s.condition:.2g})."
        )


def _sparsity(found: WeightTerrain) -> Iterator[str]:
    known = [one for one in found.matrices if one.sparsity.hoyer is not None]
    if not known:
        return
    top = max(known, key=lambda one: one.sparsity.hoyer or 0.0)
    parts = dict.fromkeys(one.part for one in known)
    yield (
        "Shares of |w| < 0.1: "
        + ", ".join(
            f"{part} {mean(one.sparsity.below['0.1'] for one in known if one.part == part):.1%}"
            for part in parts
        )
        + ". They follow the matrices' scale. Without scale, the share below a tenth of the root mean "
        "square is "
        f"{mean(one.sparsity.below_tenth_rms or 0.0 for one in known):.4f} (Gaussian "
        f"{GAUSSIAN_BELOW_TENTH:.4f}) "
        f"and Hoyer's measure {mean(one.sparsity.hoyer or 0.0 for one in known):.3f} (Gaussian "
        f"{GAUSSIAN_HOYER:.3f}), highest for {top.part} in layer {top.layer}: {top.sparsity.hoyer:.3f}."
    )


def _heads(found: WeightTerrain) -> Iterator[str]:
    known = [head for head in found.heads if head.balance is not None and head.deviation is not None]
    if not known:
        return
    values = [head.balance or 0.0 for head in known]
    same = [head for head in known if (head.balance or 0.0) > _KIND]
    other = [head for head in known if (head.balance or 0.0) < -_KIND]
    where = (
        " (two tokens at the same position; the rotary embedding changes it with distance)"
        if found.rotary
        else ""
    )
    yield (
        f"Query-key products{where}: the sign balance tr M / sum |eigenvalues| goes from {min(values):.2f} "
        f"to "
        f"{max(values):.2f}, mean {mean(values):.3f} (random 0, W_Q = W_K 1). Above {_KIND}, tokens that "
        f"look for "
        f"their like: {len(same)} of {len(known)} heads{_named(same)}; below -{_KIND}, that avoid it: "
        f"{len(other)}{_named(other)}."
    )
    even = sum(head.positive == head.negative == found.head_dim for head in known)
    yield (
        f"|M - M^T| / |M| is {mean(head.deviation or 0.0 for head in known):.3f} in the mean (random "
        f"{math.sqrt(2):.3f}, symmetric 0). {even} of {len(known)} heads have as many positive as negative "
        "eigenvalues, which says nothing: it holds for every pair of independent matrices."
    )


def _named(heads: list[HeadSymmetry]) -> str:
    if not heads:
        return ""
    ordered = sorted(heads, key=lambda head: -abs(head.balance or 0.0))[:4]
    return " (" + ", ".join(f"{head.layer}.{head.head} {head.balance:+.2f}" for head in ordered) + ")"


def _norms(found: WeightTerrain) -> Iterator[str]:
    if not found.norms:
        return
    low, high = min(found.norms, key=lambda n: n.mean), max(found.norms, key=lambda n: n.mean)
    wide = max(found.norms, key=lambda n: n.greatest)
    yield (
        f"Norm scales: the smallest mean is {low.mean:.3f} ({low.name}), the largest {high.mean:.3f} "
        f"({high.name}); "
        f"the largest scale {wide.greatest:.2f} ({wide.name}); {mean(n.near_1 for n in found.norms):.0%} lie "
        f"between 0.8 and 1.2, {mean(n.above_1_5 for n in found.norms):.0%} above 1.5, "
        f"{mean(n.below_0_5 for n in found.norms):.0%} below 0.5."
    )
