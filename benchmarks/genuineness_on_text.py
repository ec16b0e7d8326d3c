"""What genuineness tells about real replies: by kind of prompt, by head, and beside plain entropy.

Greedy replies of a model to the evaluation's test questions and open prompts, with token costs. Prints the
shares of quadrants by kind of prompt, the heads with the most and the least G and token cost, and how well
each figure of a reply tells right from wrong within the families (AUROC, .5 is chance), with 95 % intervals;
last, how much the figures of genuineness add to mean entropy in a fit that leaves the judged fold out.
``--map`` writes G and token cost of every head as a picture.

    python benchmarks/genuineness_on_text.py --model smollm2 --map docs/genuineness-smollm2.svg
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from _common import make_engine, run_all
from entropick_eval.bootstrap import strata_of
from entropick_eval.logistic import fit_logistic
from entropick_eval.prediction import auroc, bootstrap_of
from entropick_eval.tasks import Item, find_tasks, limited, read_tasks
from entropick_sampler.genuineness.quadrants import Quadrant
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_sampler.signals import SIGNAL_NAMES
from entropick_server.engine.embedded.engine import EmbeddedEngine
from entropick_server.engine.types import Token

FAMILIES = (
    "capitals", "places", "elements", "opposites", "kinds", "meanings", "forms", "first_letters",
    "operations", "word_problems", "extremes",
)  # fmt: skip
OF_GENUINENESS = (
    "genuineness",
    "entropy_variance",
    "collapse_rate",
    "entropy_window_variance",
    "token_cost",
    "token_cost_relative",
    "sink_mass",
)
BESIDE = ("logits_entropy", "surprisal")
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply with the means of its figures, its heads' figures at the end, and whether it is right."""

    item: Item
    right: bool | None
    figures: tuple[float, ...]
    """means over the tokens that have the figure: BESIDE, then OF_GENUINENESS; NaN where none has it"""
    quadrants: NDArray[np.float64]
    """share of the heads in each quadrant, mean over the tokens that have them; NaN where none has"""
    heads: NDArray[np.float64]
    """[2, layers, heads]: G and token cost at the end"""


def reply_of(item: Item, tokens: Sequence[Token], text: str) -> Reply:
    figures = []
    for name in (*BESIDE, *OF_GENUINENESS):
        column = SIGNAL_NAMES.index(name)
        known = [v for t in tokens if (v := t.signals[column]) is not None]
        figures.append(float(np.mean(known)) if known else float("nan"))
    counted = [(*t.counts[3:], t.counts.transition) for t in tokens if t.counts is not None]
    shares = [np.array(c) / sum(c) for c in counted if any(c[:4])]
    none = np.full(len(Quadrant), np.nan)
    detail = tokens[-1].detail
    heads = np.array(
        [detail.genuineness, detail.token_cost] if detail and detail.token_cost else [], dtype=np.float64
    )
    right = None if item.check is None else item.check.grade(text)
    return Reply(item, right, tuple(figures), np.mean(shares, axis=0) if shares else none, heads)


def print_quadrants(replies: Sequence[Reply]) -> None:
    by_family: dict[str, list[Reply]] = defaultdict(list)
    for reply in replies:
        by_family[reply.item.family].append(reply)
        by_family["all"].append(reply)
    names = [q.label for q in Quadrant]
    shown = OF_GENUINENESS[:3] + OF_GENUINENESS[4:]
    print("\n| prompts | replies | with G | " + " | ".join((*shown, *names)) + " |")
    print("|---|" + "---:|" * (2 + len(shown) + len(names)))
    for family in sorted(by_family, key=lambda name: (name == "all", name)):
        of = by_family[family]
        figures = np.array([r.figures for r in of])[:, [len(BESIDE) + OF_GENUINENESS.index(n) for n in shown]]
        shares = np.array([r.quadrants for r in of])
        with_g = int(np.isfinite(figures[:, 0]).sum())
        cells = [_mean(column, ".4f") for column in figures.T] + [_mean(column, ".1%") for column in shares.T]
        print(f"| {family} | {len(of)} | {with_g} | " + " | ".join(cells) + " |")


def _mean(values: NDArray[np.float64], form: str) -> str:
    known = values[np.isfinite(values)]
    return format(known.mean(), form) if known.size else "-"


def print_heads(replies: Sequence[Reply], layers: Sequence[int]) -> NDArray[np.float64]:
    stacked = np.array([r.heads for r in replies if r.heads.size])
    found = np.nanmean(stacked, axis=0)
    for name, figures in zip(("G", "token cost, bits"), found, strict=True):
        order = np.argsort(figures, axis=None)
        width = figures.shape[1]
        for title, places in (("least", order[:5]), ("most", order[::-1][:5])):
            cells = [f"{layers[p // width]}/{p % width} {figures.flat[p]:.3f}" for p in places]
            print(f"{name}, {title} (layer/head): " + ", ".join(cells))
        # of all that differs between heads and replies, the part that the head explains
        of_name = stacked[:, 0 if name == "G" else 1]
        total = np.nanvar(of_name)
        share = np.nanvar(figures) / total
        print(f"{name}: the head explains {share:.0%} of the variance over heads and replies")
    return found


def print_prediction(replies: Sequence[Reply], resamples: int) -> None:
    checked = [r for r in replies if r.right is not None and np.isfinite(r.figures).all()]
    families = [r.item.family for r in checked]
    names = sorted(set(families))
    code = np.array([names.index(f) for f in families])
    right = np.array([bool(r.right) for r in checked])
    figures = np.array([r.figures for r in checked])
    strata = strata_of(families)
    print(
        f"\nright and wrong: {len(checked)} replies that have every figure (8 tokens at least), "
        f"{right.mean():.1%} right"
    )

    def within(scores: NDArray[np.float64], places: NDArray[np.int64]) -> float:
        found = [
            auroc(scores[p], ~right[p])
            for f in range(len(names))
            if len(p := places[code[places] == f]) and 0 < right[p].mean() < 1
        ]
        return float(np.mean(found)) if found else float("nan")

    print("\n| figure, mean over the reply | AUROC of wrong answers within families |\n|---|---|")
    for column, name in enumerate((*BESIDE, *OF_GENUINENESS)):
        scores = figures[:, column]
        value, low, high = bootstrap_of(lambda p, s=scores: within(s, p), strata, resamples)  # type: ignore[misc]
        print(f"| {name} | {value:.3f} [{low:.3f}, {high:.3f}] |")
    without = [*BESIDE, "entropy_window_variance"]
    names_of = (*BESIDE, *OF_GENUINENESS)
    for title, more, fewer in (
        ("all figures against mean entropy", names_of, BESIDE[:1]),
        ("all figures against entropy and surprisal", names_of, BESIDE),
        ("all figures against entropy, surprisal and entropy_window_variance", names_of, without),
    ):
        one, other = (
            held_out(figures[:, [names_of.index(n) for n in chosen]], ~right, code, len(names))
            for chosen in (more, fewer)
        )
        value, low, high = bootstrap_of(
            lambda p, a=one, b=other: within(a, p) - within(b, p),  # type: ignore[misc]
            strata,
            resamples,
        )
        print(
            f"fit on four fifths, judged on the fifth: {title}: AUROC {value:+.3f} [{low:+.3f}, {high:+.3f}]"
        )


def held_out(
    features: NDArray[np.float64], wrong: NDArray[np.bool_], families: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """The log odds of each reply by a fit on the folds without it; families get an offset of their own."""
    scaled = (features - features.mean(0)) / features.std(0)
    columns = np.hstack([scaled, np.eye(count)[families]])
    fold = np.random.default_rng(0).permutation(len(wrong)) % FOLDS
    scores = np.empty(len(wrong))
    for k in range(FOLDS):
        fit = fit_logistic(columns[fold != k], wrong[fold != k].astype(np.float64), penalty=1.0)
        p = np.clip(fit.probabilities(columns[fold == k]), 1e-12, 1 - 1e-12)
        scores[fold == k] = np.log(p / (1 - p))
    return scores


def draw_map(found: NDArray[np.float64], layers: Sequence[int], path: Path) -> None:
    """Writes G and token cost of every head as two grids, a column a layer."""
    size, gap, left, top = 14, 40, 44, 34
    _, count, heads = found.shape
    height = top + 2 * (heads * size + gap)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + count * size + 90}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="{height}" fill="#ffffff"/>',
    ]
    titles = (
        "G: variance and collapses of the head's attention entropy",
        "token cost: bits of the text it looks at",
    )
    for grid, (title, figures) in enumerate(zip(titles, found, strict=True)):
        y0 = top + grid * (heads * size + gap)
        low, high = np.nanmin(figures), np.nanmax(figures)
        parts.append(f'<text x="{left}" y="{y0 - 8}">{title}; {low:.3g} (light) to {high:.3g} (dark)</text>')
        for layer in range(count):
            for head in range(heads):
                value = figures[layer, head]
                share = 0.0 if high == low else (value - low) / (high - low)
                shade = tuple(
                    round(a + (b - a) * share) for a, b in zip((239, 243, 255), (8, 48, 107), strict=True)
                )
                at = f'x="{left + layer * size}" y="{y0 + head * size}"'
                parts.append(
                    f'<rect {at} width="{size - 1}" height="{size - 1}" fill="rgb{shade}">'
                    f"<title>layer {layers[layer]}, head {head}: {value:.4g}</title></rect>"
                )
        parts.append(f'<text x="4" y="{y0 + 11}">head 0</text>')
        parts += [
            f'<text x="{left + k * size}" y="{y0 + heads * size + 12}">{layers[k]}</text>'
            for k in range(0, count, 5)
        ]
        parts.append(f'<text x="{left + count * size + 4}" y="{y0 + heads * size + 12}">layer</text>')
    path.write_text("\n".join((*parts, "</svg>", "")), encoding="utf-8")


async def replies_of(engine: EmbeddedEngine, items: Sequence[Item], max_tokens: int) -> list[Reply]:
    prompts = [
        engine.tokenizer.apply_chat_template(list(i.messages), add_generation_prompt=True) for i in items
    ]
    sampling = [SamplingParams(0.0, max_tokens=i.max_tokens or max_tokens) for i in items]
    policy = PolicyConfig(policy="fixed", telemetry="full", genuineness=True)
    rows = await run_all(engine, prompts, policy, sampling)
    ids = [[t.token_id for t in tokens] for tokens in rows]
    texts = [engine.tokenizer.decode(of, skip_special_tokens=True) for of in ids]
    return [reply_of(item, tokens, text) for item, tokens, text in zip(items, rows, texts, strict=True)]


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2", help="a folder, or a name of `entropick serve`")
    parser.add_argument("--questions", type=int, default=330)
    parser.add_argument("--open", type=int, default=40)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--map", type=Path)
    args = parser.parse_args()
    items = [
        *limited([i for i in read_tasks(find_tasks(FAMILIES)) if i.split == "test"], args.questions),
        *limited([i for i in read_tasks(find_tasks(["open"])) if i.split == "test"], args.open),
    ]
    random.Random(0).shuffle(items)
    engine = make_engine(args.model)
    await engine.start()
    replies = await replies_of(engine, items, args.max_tokens)
    layers = engine.info.monitored_layers
    await engine.close()
    print(f"{args.model}: {len(replies)} greedy replies, all heads of {len(layers)} layers")
    print_quadrants(replies)
    print()
    found = print_heads(replies, layers)
    print_prediction(replies, args.resamples)
    if args.map:
        draw_map(found, layers, args.map)


if __name__ == "__main__":
    asyncio.run(main())
