"""The section ``states``: the residual stream over the layers, silent neurons, and the reach of the heads."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any, Final

import torch

from ..forward import Attended, embed, run_texts
from ..section import Model, Options, Section
from ..texts import read_texts
from .neurons import SilentNeurons, norm_products, silent_neurons
from .reach import EDGES, HeadReach, ReachSums
from .states import LayerStates, layer_states
from .states_plots import plots
from .states_result import States

_SINK: Final = 10.0
"""A first position is a sink where its norm is that many times the others'."""


class _Watch:
    """A visitor that measures each layer and keeps one layer's states."""

    def __init__(self, model: Model, lengths: list[int], embedded: torch.Tensor, raw: bool) -> None:
        self._model = model
        self._lengths = lengths
        self._raw = raw
        self._before = torch.split(embedded, lengths)
        self._peaks: torch.Tensor | None = None
        self.layers: list[LayerStates] = [layer_states(self._before)]
        self.silent: list[SilentNeurons] = []
        self.reach: list[HeadReach] = []

    def attended(self, seen: Attended) -> None:
        sums = ReachSums(seen.queries.shape[1])
        for lo, hi, first in seen.pieces():
            sums.add(seen.scores(lo, hi, first).softmax(-1), lo - first)
        self.reach += sums.reach(seen.layer)

    def fired(self, layer: int, activations: torch.Tensor) -> None:
        self._peaks = activations.abs().amax(0)

    def added(self, layer: int, residual: torch.Tensor) -> None:
        states = torch.split(residual.float(), self._lengths)
        self.layers.append(layer_states(states, self._before))
        self._before = states
        if self._peaks is None:
            return
        gate, up, down = (self._model.weights.matrix(layer, part, raw=self._raw) for part in _NEURON_PARTS)
        products = norm_products(gate, up, down)
        self.silent.append(silent_neurons(self._peaks, down, sum(self._lengths), products))
        self._peaks = None


_NEURON_PARTS: Final = ("gate", "up", "down")


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> States:
    """Runs the texts through the model, layer by layer, and measures the states behind each layer."""
    texts = read_texts(model, options)
    lengths = [len(text.ids) for text in texts]
    ids = torch.tensor([token for text in texts for token in text.ids])
    watch = _Watch(model, lengths, embed(model, ids), options.raw)
    run_texts(model, texts, watch, what="states", quiet=options.quiet, fired=watch.fired)
    return States(
        texts=len(texts),
        tokens=sum(lengths),
        layers=tuple(watch.layers),
        silent=tuple(watch.silent),
        edges=EDGES,
        reach=tuple(watch.reach),
    )


def sentences(found: States) -> tuple[str, ...]:
    """Describes the states and the heads' reach with numbers."""
    first, last = found.layers[0], found.layers[-1]
    said = [
        f"Over {found.tokens:,} tokens of {found.texts} texts the norm of the residual stream goes from "
        f"{_number(first.mean_norm_without_first)} at the embedding to "
        f"{_number(last.mean_norm_without_first)} "
        "behind the last layer, without position 0."
    ]
    ratios = [
        (at, one.first_norm / one.mean_norm_without_first)
        for at, one in enumerate(found.layers)
        if one.mean_norm_without_first
    ]
    sinks = [at for at, ratio in ratios if ratio > _SINK]
    if sinks:
        at, ratio = max(ratios, key=lambda entry: entry[1])
        said.append(
            f"Position 0 is a sink: behind the layers {sinks[0]} to {sinks[-1]} its norm is more than "
            f"{_SINK:.0f} "
            f"times the others', at most {ratio:.0f} times (layer {at})."
        )
    elif ratios:
        said.append(
            f"Position 0 is no sink of norm: at most {max(r for _, r in ratios):.1f} times the others'."
        )
    known = [(at, one) for at, one in enumerate(found.layers) if one.pair_cosine_without_first is not None]
    if known:
        at, top = max(known, key=lambda entry: entry[1].pair_cosine_without_first or 0.0)
        said.append(
            f"Two positions of a text have a mean cosine of "
            f"{_number(known[0][1].pair_cosine_without_first)} at "
            f"the embedding, {_number(top.pair_cosine_without_first)} at most (layer {at}; with position 0 "
            f"{_number(top.pair_cosine)}), {_number(known[-1][1].pair_cosine_without_first)} behind the last "
            f"(random directions 0 ± {top.null_deviation:.3f})."
        )
    if found.silent:
        total = sum(one.neurons for one in found.silent)
        silent = sum(one.silent for one in found.silent)
        worst = max(range(len(found.silent)), key=lambda layer: found.silent[layer].silent)
        said.append(
            f"{silent} of {total:,} neurons never contribute 1 % of their layer's mean peak on these tokens"
            + (f", most in layer {worst}: {found.silent[worst].silent}." if silent else ".")
        )
        dead = sum(one.dead_too for one in found.silent)
        if dead:
            said.append(f"{dead} of the silent neurons are dead by their weights too.")
    if found.reach:
        local = [head for head in found.reach if (head.local_share or 0.0) > 0.5]
        sink = [head for head in found.reach if head.first_share > 0.5]
        said.append(
            f"{len(sink)} of {len(found.reach)} heads give more than half of their attention to position 0 "
            f"(mean "
            f"{mean(head.first_share for head in found.reach):.0%}); of what is left, {len(local)} heads "
            f"give more "
            "than half to the token itself and the two before it."
        )
    return tuple(said)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


SECTION: Final = Section(
    name="states",
    title="The residual stream and the heads' reach",
    version=1,
    result=States,
    measure=measure,
    sentences=sentences,
    plots=plots,
    uses=("raw", "text", "tokens", "length", "seed"),
)
