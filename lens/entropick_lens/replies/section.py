"""The section ``reply_labels``: how well task, correctness and format can be read off a reply's layers.

Of texts with labels alone (``--text``). Each label is read off the entropies of layers and, beside them, off
the signals that a server measures anyway, off lengths, and off both, by the source's k nearest neighbours
(Entropy-Lens, arXiv 2502.16570) and by a ridge regression, on folds that keep groups whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..section import Model, Options, Plot, Section
from .features import Features, measure_features
from .judging import BASIS, READERS, Gain, Judged, Reading, judge
from .labelled import Labelled, read_labelled
from .reading import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASK: Final = "task"
"""the label inside whose values the others are judged as well"""
_NONE: Final = (
    'No text has labels, so nothing is judged: give JSON Lines with "labels" (and "group") with --text; '
    "docs/inspect.md has the form."
)


@dataclass(frozen=True, slots=True)
class ReplyLabels:
    """The labels of replies as they can be read off layers and signals."""

    texts: int
    left_out: int
    """labelled lines for which there was no room, or whose reply is cut off whole"""
    positions: int
    windows: int
    judged: tuple[Judged, ...]
    not_judged: tuple[str, ...]
    """why other labels were not"""


def measure(model: Model, options: Options, results: Mapping[str, Any]) -> ReplyLabels:
    """Runs the labelled texts through the model and judges every label."""
    texts, lost = ([], 0) if options.text is None else read_labelled(options.text, model, options)
    if not texts:
        return ReplyLabels(0, lost, 0, options.windows, (), ())
    found, positions = measure_features(model, [one.text for one in texts], options)
    return judge_all(texts, found, model.shape.layers, options, lost, positions)


def judge_all(
    texts: list[Labelled], found: Features, layers: int, options: Options, lost: int, positions: int
) -> ReplyLabels:
    """Judges every label of texts whose features are known."""
    sets = feature_sets(found, layers)
    judged: list[Judged] = []
    refused: list[str] = []
    for label in sorted(
        {name for one in texts for name in one.labels}, key=lambda name: (name != TASK, name)
    ):
        own = [i for i, one in enumerate(texts) if label in one.labels]
        tasks = None
        if label != TASK and any(TASK in texts[i].labels for i in own):
            tasks = [texts[i].labels.get(TASK, "") for i in own]
        outcome = judge(
            label,
            [texts[i].labels[label] for i in own],
            [texts[i].group for i in own],
            {name: matrix[own] for name, matrix in sets.items()},
            options.permutations,
            options.seed,
            tasks,
        )
        if isinstance(outcome, str):
            refused.append(outcome)
        else:
            judged.append(outcome)
    return ReplyLabels(len(texts), lost, positions, options.windows, tuple(judged), tuple(refused))


def feature_sets(found: Features, layers: int) -> dict[str, Floats]:
    """Returns the sets of features that are compared, [n, d] by name.

    Entropies of layers are taken as they are, as in the source; the others are standardised, because their
    units differ. Where both stand together each has as much variance in all as the other.
    """
    signals, profile = _standardised(found.signals), found.layers
    return {
        "layers": profile,
        "layers, three orders": found.orders,
        "last layer": profile[:, layers - 1 :: layers],
        BASIS: signals,
        "signals and layers": np.concatenate([_balanced(signals), _balanced(profile)], axis=1),
        "lengths": _standardised(np.log(found.lengths)),
    }


def _standardised(values: Floats) -> Floats:
    spread = values.std(0)
    return np.asarray((values - values.mean(0)) / np.where(spread > 0, spread, 1.0), dtype=np.float64)


def _balanced(values: Floats) -> Floats:
    size = float(np.sqrt(values.var(0).sum()))
    return values / size if size > 0 else values


def sentences(found: ReplyLabels) -> tuple[str, ...]:
    """Tells for each label the areas of layers and signals, and the gain of both over signals."""
    if not found.texts:
        return (_NONE,)
    said = [
        f"{found.texts} labelled texts, measured at {found.positions} positions"
        + (f"; {found.left_out} lines left out for want of room." if found.left_out else ".")
    ]
    for one in found.judged:
        by_name = {(r.features, r.reader): r for r in one.readings}
        classes = ", ".join(f"{name} {count}" for name, count in zip(one.classes, one.counts, strict=True))
        said.append(f"{one.label}, of {sum(one.counts)} texts of {one.groups} groups ({classes}):")
        for reader in READERS:
            layers, signals = by_name["layers", reader], by_name[BASIS, reader]
            both, lengths = by_name["signals and layers", reader], by_name["lengths", reader]
            name = f"k-NN with k = {one.neighbours}" if reader == "k-NN" else "a ridge regression"
            said.append(
                f"by {name} layers reach an AUC of {_area(layers)}, the ordinary signals {_area(signals)}, "
                f"lengths alone {_area(lengths)}, permuted labels {layers.area.permuted:.2f} (95 % below "
                f"{layers.area.permuted_high:.2f}); layers beside the signals add {_gain(both.gain)}."
            )
            if layers.within is not None:
                said.append(
                    f"Inside {one.tasks_within} tasks, by the same: layers {_within(layers)}, signals "
                    f"{_within(signals)}, permuted {layers.within.permuted:.2f}; layers beside the signals "
                    f"add {_gain(both.within_gain)}."
                )
    return (*said, *(f"Not judged: {reason}." for reason in found.not_judged))


def _area(reading: Reading) -> str:
    return f"{reading.area.value:.2f} [{reading.area.low:.2f}, {reading.area.high:.2f}]"


def _within(reading: Reading) -> str:
    area = reading.within
    return "" if area is None else f"{area.value:.2f} [{area.low:.2f}, {area.high:.2f}] (p = {area.p:.3f})"


def _gain(gain: Gain | None) -> str:
    return "nothing" if gain is None else f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def plots(found: ReplyLabels) -> tuple[Plot, ...]:
    """Returns for each label its areas, and for one of several classes which is taken for which."""
    drawn = []
    for number, one in enumerate(found.judged):

        def areas(figure: Figure, one: Judged = one) -> None:
            within = one.tasks_within > 0
            parts = figure.subplots(1, 2 if within else 1, squeeze=False, sharey=True)[0]
            names = list(dict.fromkeys(r.features for r in one.readings))
            for axes, inside in zip(parts, (False, True), strict=False):
                for shift, reader in zip((-0.15, 0.15), READERS, strict=True):
                    own = [r for r in one.readings if r.reader == reader]
                    given = [a for r in own if (a := r.within if inside else r.area) is not None]
                    at = np.arange(len(given)) + shift
                    value = np.array([a.value for a in given])
                    reach = [value - [a.low for a in given], np.array([a.high for a in given]) - value]
                    axes.errorbar(value, at, xerr=np.maximum(reach, 0.0), fmt="o", capsize=3, label=reader)
                    high = [a.permuted_high for a in given]
                    axes.plot(high, at, "|", color="0.5", label="95 % of permuted" if shift > 0 else None)
                axes.axvline(0.5, color="0.7", lw=0.8)
                axes.set(xlabel="AUC inside tasks" if inside else "AUC")
                axes.set_yticks(range(len(names)), names)
                axes.legend(fontsize=8)
            parts[0].invert_yaxis()

        caption = (
            f"How well {one.label} is read off each set of features, with 95 % intervals (groups drawn "
            "again). Grey: 95 % of permuted labels lie below."
        )
        drawn.append(Plot(f"areas-{number}", caption, areas, (10, 4)))
        if len(one.classes) > 2:

            def confusion(figure: Figure, one: Judged = one) -> None:
                axes = figure.subplots()
                image = axes.imshow(np.array(one.confusion), cmap="viridis", vmin=0, vmax=1)
                axes.set_xticks(range(len(one.classes)), one.classes, rotation=90)
                axes.set_yticks(range(len(one.classes)), one.classes)
                axes.set(xlabel="taken for", ylabel=one.label)
                figure.colorbar(image, ax=axes, label="share of the row")

            drawn.append(
                Plot(
                    f"confusion-{number}",
                    f"What {one.neighbours} nearest neighbours by layer entropies take each {one.label} for.",
                    confusion,
                    (7, 6),
                )
            )
    return tuple(drawn)


SECTION: Final = Section(
    name="reply_labels",
    title="Replies: what layers tell of task, correctness and format",
    version=1,
    result=ReplyLabels,
    measure=measure,
    sentences=sentences,
    plots=plots,
    uses=("text", "tokens", "length", "seed", "windows", "permutations"),
)
