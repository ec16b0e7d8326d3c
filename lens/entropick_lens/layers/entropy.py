"""The section ``layer_entropy``: the entropy of the next token as each layer's output would give it.

The output of every layer, before the final norm, goes through the final norm and the output matrix (the logit
lens), at positions whose next token belongs to a reply. The embedding is no layer. The vocabulary is taken in
pieces, so no table of probabilities exists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from ..forward import Attended, run_texts
from ..grids import Grid, grid
from ..section import InspectError, Model, Options, Plot, Section, progress
from ..texts import Text, read_texts
from .entropies import Array, Entropies, expansion, windows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDERS: Final = (0.5, 2.0, 5.0, math.inf)
"""of Renyi's entropy, beside Shannon's; the source classifies by 0.5, 1 and 5"""
POSITIONS: Final = 64
"""positions of a text, evenly spread over its reply"""
QUICK_POSITIONS: Final = 16
_ROWS: Final = 2048
"""distributions whose logits are in memory at a time"""
_BITS: Final = 1.0 / math.log(2.0)
_WATCHED: Final = 4


@dataclass(frozen=True, slots=True)
class LayerEntropy:
    """The profiles of entropy over layers; in nats unless a name says bits."""

    texts: int
    positions: int
    vocabulary: int
    mean: tuple[float, ...]
    """by layer, over positions"""
    mean_bits: tuple[float, ...]
    low: tuple[float, ...]
    """the 10th percentile over positions"""
    median: tuple[float, ...]
    high: tuple[float, ...]
    """the 90th percentile"""
    renyi_orders: tuple[str, ...]
    renyi: Grid
    """by order and layer, means over positions"""
    divergence: tuple[float, ...]
    """by layer: the mean of sum q ln(q / p) from the last layer's distribution q"""
    expanding: tuple[float, ...]
    """for each step between layers the share of positions whose entropy rises"""
    delta_sd: tuple[float, ...]
    """for each step the standard deviation of the change over positions"""
    expansion_count: float
    """rises a position"""
    pruning_count: float
    expansion_sum: float
    """mean over positions of the sum of rises"""
    pruning_sum: float
    windows: int
    profiles: Grid
    """by text: means over each window of tokens, window after window"""
    watched: tuple[int, ...]
    """the layers whose change of entropy varies most, to look at live"""
    example: Grid
    """of the first text: by position, by layer"""
    example_tokens: tuple[str, ...]


class ResidualVisitor:
    """The outputs of all layers at some positions, collected while texts run."""

    def __init__(self, rows: Tensor) -> None:
        """Takes the numbers of the tokens [P] whose residuals are kept."""
        self._rows = rows
        self.residuals: list[Tensor] = []
        """by layer: [P, hidden]"""

    def attended(self, seen: Attended) -> None:
        """Looks at nothing: attention is of no interest here."""

    def added(self, layer: int, residual: Tensor) -> None:
        """Keeps a layer's output at the positions."""
        self.residuals.append(residual[self._rows].clone())


def spread_positions(text: Text, most: int = POSITIONS) -> list[int]:
    """Returns at most ``most`` positions that generate, evenly spread."""
    own = text.generating
    count = min(len(own), most)
    return [own[int(i)] for i in np.linspace(0, len(own) - 1, count).round()] if count else []


def normed(model: Model, residuals: Tensor) -> Tensor:
    """Returns residuals [.., hidden] behind the model's final norm."""
    size = residuals.square().mean(-1, keepdim=True).add(float(model.config.rms_norm_eps)).sqrt()
    return residuals / size * model.weights.final_norm()


def lens_entropies(
    model: Model, residuals: Tensor, orders: tuple[float, ...], options: Options
) -> tuple[dict[float, Tensor], Tensor]:
    """Measures the distributions that residuals [P, L, hidden] give through the final norm and the output
    matrix.

    Returns Shannon's entropy (order 1) and Renyi's of the orders, each [P, L] in nats, and the divergence
    from the last layer's distribution, [P, L].
    """
    count, layers, _ = residuals.shape
    x = normed(model, residuals).reshape(count * layers, -1)
    cap = getattr(model.config, "final_logit_softcapping", None)
    at_once = max(1, _ROWS // layers) * layers
    parts = [slice(lo, min(lo + at_once, len(x))) for lo in range(0, len(x), at_once)]
    # in a part every position has all of its layers, the last of which the others are compared with
    found = [
        Entropies(p.stop - p.start, orders, torch.arange(p.stop - p.start) // layers * layers + layers - 1)
        for p in parts
    ]
    pieces = -(-model.shape.vocabulary // 4096)
    for _, rows in progress(model.weights.head_rows(), "layer entropy", options, pieces):
        for part, sums in zip(parts, found, strict=True):
            logits = x[part] @ rows.T.to(x.dtype)
            sums.add(logits if cap is None else torch.tanh(logits / cap) * cap)
    return (
        {o: torch.cat([f.renyi(o) for f in found]).view(count, layers) for o in (1.0, *orders)},
        torch.cat([f.divergence() for f in found]).view(count, layers),
    )


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> LayerEntropy:
    """Runs the texts through the model and measures every layer at the positions that generate."""
    texts = read_texts(model, options)
    starts = np.cumsum([0, *(len(text.ids) for text in texts)])
    most = QUICK_POSITIONS if options.quick else POSITIONS
    of_text = [spread_positions(text, most) for text in texts]
    rows = [int(start) + p for start, own in zip(starts, of_text, strict=False) for p in own]
    if not rows:
        raise InspectError("--text: no position generates a token of a reply")
    visitor = ResidualVisitor(torch.tensor(rows))
    run_texts(model, texts, visitor, what="layers", quiet=options.quiet)
    entropies, divergence = lens_entropies(model, torch.stack(visitor.residuals, 1), ORDERS, options)
    shannon = entropies[1.0].numpy()
    ends = np.cumsum([0, *(len(own) for own in of_text)])
    profiles = [windows(shannon[lo:hi], options.windows) for lo, hi in pairwise(ends) if hi > lo]
    first = next(i for i, own in enumerate(of_text) if own)
    return summarise(
        shannon,
        {f"{order:g}": entropies[order].numpy() for order in ORDERS},
        divergence.numpy(),
        profiles,
        vocabulary=model.shape.vocabulary,
        window_count=options.windows,
        example=len(of_text[first]),
        example_tokens=tuple(
            model.tokenizer.decode([texts[first].ids[p + 1]], skip_special_tokens=False)
            for p in of_text[first]
        ),
    )


def summarise(
    shannon: Array,
    renyi: Mapping[str, Array],
    divergence: Array,
    profiles: list[Array],
    *,
    vocabulary: int,
    window_count: int,
    example: int,
    example_tokens: tuple[str, ...],
) -> LayerEntropy:
    """Builds the result from entropies [positions, layers] and the profiles of the texts."""
    delta = np.diff(shannon, axis=1)
    rises, falls, rise, fall = (float(x.mean()) for x in expansion(shannon))
    low, median, high = np.percentile(shannon, [10, 50, 90], axis=0)
    spread = delta.std(0)
    watched = sorted(int(i) + 1 for i in np.argsort(-spread)[:_WATCHED])

    def row(values: Array) -> tuple[float, ...]:
        return tuple(map(float, values))

    return LayerEntropy(
        texts=len(profiles),
        positions=len(shannon),
        vocabulary=vocabulary,
        mean=row(shannon.mean(0)),
        mean_bits=row(shannon.mean(0) * _BITS),
        low=row(low),
        median=row(median),
        high=row(high),
        renyi_orders=tuple(renyi),
        renyi=grid([values.mean(0) for values in renyi.values()]),
        divergence=row(divergence.mean(0)),
        expanding=row((delta > 0).mean(0)),
        delta_sd=row(spread),
        expansion_count=rises,
        pruning_count=falls,
        expansion_sum=rise,
        pruning_sum=fall,
        windows=window_count,
        profiles=grid(profiles),
        watched=tuple(watched),
        example=grid(shannon[:example]),
        example_tokens=example_tokens,
    )


def sentences(found: LayerEntropy) -> tuple[str, ...]:
    """Describes the profile: its ends, its peak, where it falls, how often it rises."""
    mean = np.array(found.mean_bits)
    ceiling = math.log2(found.vocabulary)
    said = [
        f"At {found.positions} positions of {found.texts} texts the first layer's output has {mean[0]:.2f} "
        f"bits, the last's {mean[-1]:.2f}; even odds over all {found.vocabulary:,} tokens would be "
        f"{ceiling:.2f}."
    ]
    if len(mean) > 1:
        steps = np.diff(mean)
        falls, rises = int(steps.argmin()), int(steps.argmax())
        said.append(
            f"The entropy is highest after layer {int(mean.argmax())} ({mean.max():.2f} bits) and falls most "
            f"in layer {falls + 1} (by {-steps[falls]:.2f} bits)"
            + (
                f"; it rises most in layer {rises + 1} (by {steps[rises]:.2f})."
                if steps[rises] > 0.01
                else "."
            )
        )
        said.append(
            f"A token's distribution widens in {found.expansion_count:.1f} and narrows in "
            f"{found.pruning_count:.1f} of {len(steps)} steps, by {found.expansion_sum * _BITS:.2f} and "
            f"{found.pruning_sum * _BITS:.2f} bits in all."
        )
        close = [i for i, kl in enumerate(found.divergence) if kl * _BITS < 1.0]
        if close and close[0] < len(mean) - 1:
            said.append(
                f"From layer {close[0]} on the distribution is within 1 bit of the last layer's "
                f"(Kullback-Leibler)."
            )
        said.append(
            f"Layers {', '.join(map(str, found.watched))} change the entropy most differently from token to "
            "token: these tell most when looked at live (the request field layer_entropy)."
        )
    return tuple(said)


def plots(found: LayerEntropy) -> tuple[Plot, ...]:
    """Returns the profile with its spread, the orders, and one text token by token."""
    layers = range(len(found.mean))

    def fan(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        left.fill_between(layers, found.low, found.high, alpha=0.25, label="10-90 % of positions")
        left.plot(layers, found.median, label="median")
        left.plot(layers, found.mean, "--", label="mean")
        left.axhline(math.log(found.vocabulary), color="0.7", lw=0.8)
        left.set(xlabel="layer", ylabel="entropy (nats)", ylim=(0, None))
        left.legend()
        for order, values in zip(found.renyi_orders, found.renyi, strict=True):
            right.plot(layers, values, label=f"order {order}")
        right.plot(layers, found.mean, "k--", label="order 1 (Shannon)")
        right.plot(layers, found.divergence, ":", color="C3", label="divergence from the last layer")
        right.set(xlabel="layer", ylabel="nats", ylim=(0, None))
        right.legend(fontsize=8)

    def tokens(figure: Figure) -> None:
        axes = figure.subplots()
        data = np.array(found.example).T
        image = axes.imshow(data, aspect="auto", interpolation="nearest", cmap="magma")
        shown = [token.replace("\n", "\\n").replace("$", "\\$") for token in found.example_tokens]
        axes.set_xticks(range(len(shown)), shown, rotation=90, fontsize=7)
        axes.set(ylabel="layer", xlabel="next token")
        figure.colorbar(image, ax=axes, label="entropy (nats)")

    return (
        Plot(
            "profile",
            "Entropy of the next token by layer: its spread over positions, and other orders.",
            fan,
            (11, 4.5),
        ),
        Plot(
            "tokens",
            "One reply, token by token: bright where a layer's output leaves much open.",
            tokens,
            (11, 4.5),
        ),
    )


SECTION: Final = Section(
    name="layer_entropy",
    title="Layers: what each would say next",
    version=1,
    result=LayerEntropy,
    measure=measure,
    sentences=sentences,
    plots=plots,
    uses=("text", "tokens", "length", "seed", "windows", "quick"),
)
