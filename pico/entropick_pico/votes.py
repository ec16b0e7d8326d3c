"""Measures the gain of several replies over a greedy reply: ``python -m entropick_pico.votes [--model DIR]``.

For tasks with many valid texts for an answer: k sampled replies, a plain vote over their answers, and a vote
in which a reply weighs 2 ** (-its largest excess surprisal). The excess of a token is its surprisal minus
the entropy of the distribution that it was drawn from, in bits: 0 where the model chose freely among equals,
large where it had to be right and was not sure.
"""

import argparse
import json
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerFast

from entropick_pico import evaluate, grammar, model_path

_BATCH: Final = 256
_STOP: Final = 110
COUNTS: Final = (3, 5)
SIZES: Final[Mapping[str, Sequence[int]]] = MappingProxyType({"sums": (8, 10), "mix": (10,), "latin": (6, 7)})


@dataclass(frozen=True)
class Setting:
    """The settings that replies are drawn at."""

    temperature: float
    top_p: float = 1.0
    min_p: float = 0.0

    def __str__(self) -> str:
        """Returns the settings in words."""
        cut = f", top-p {self.top_p:g}" if self.top_p < 1 else f", min-p {self.min_p:g}" if self.min_p else ""
        return f"T {self.temperature:g}{cut}"


SETTINGS: Final = (Setting(1.0), Setting(0.7, top_p=0.9), Setting(0.7, min_p=0.2))


@dataclass(frozen=True)
class Reply:
    """A reply: its answer, its tokens with the end of the turn, its largest excess surprisal (bits)."""

    answer: str
    tokens: int
    excess: float


@dataclass(frozen=True)
class Gain:
    """The figures of a task and a setting: shares of right answers, and tokens as a multiple of greedy's."""

    task: str
    n: int
    greedy: float
    setting: str
    count: int
    single: float
    vote: float
    weighted: float
    error: float
    tokens: float


def examples(task: str, size: int, n: int, seed: int = 21) -> list[grammar.Example]:
    """Returns ``n`` check examples of a task at a size, on inputs that training never had."""
    rng = random.Random(f"{seed} {task} {size}")
    return [grammar.of_size(rng, task, size, "check") for _ in range(n)]


@torch.inference_mode()
def draw(
    model: Any,
    tok: PreTrainedTokenizerFast,
    texts: Sequence[str],
    setting: Setting | None,
    seed: int = 5,
) -> list[Reply]:
    """Returns a reply to each prompt, drawn at ``setting``, or greedy if it is None.

    Surprisal and entropy are those of the model's own distribution, at temperature 1.
    """
    torch.manual_seed(seed)
    how: dict[str, Any] = {"do_sample": False}
    if setting is not None:
        how = {"do_sample": True, "top_k": 0, **asdict(setting)}
    replies: list[Reply] = []
    for start in range(0, len(texts), _BATCH):
        some = list(texts[start : start + _BATCH])
        batch = tok(some, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        width = batch["input_ids"].shape[1]
        out = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=_STOP,
            return_dict_in_generate=True,
            output_logits=True,
            **how,
        )
        drawn = out.sequences[:, width:]
        log_p = torch.stack(out.logits, 1).float().log_softmax(-1) / math.log(2)
        entropy = -(log_p.exp2() * log_p).sum(-1)
        excess = -log_p.gather(2, drawn[..., None])[..., 0] - entropy
        for row, worst in zip(drawn, excess, strict=True):
            ended = (row == tok.eos_token_id).nonzero()
            length = int(ended[0]) + 1 if len(ended) else len(row)
            text = str(tok.decode(row[:length], skip_special_tokens=True))
            replies.append(Reply(grammar.final_answer(text), length, float(worst[:length].max())))
    return replies


def verdict(replies: Sequence[Reply], weighted: bool) -> str:
    """Returns the answer with the most votes; the earliest of several that have as many."""
    votes: dict[str, float] = defaultdict(float)
    for reply in replies:
        votes[reply.answer] += 2.0**-reply.excess if weighted else 1.0
    return max(votes, key=votes.__getitem__)


def gains(model: Any, tok: PreTrainedTokenizerFast, task: str, size: int, n: int) -> list[Gain]:
    """Returns the gains of votes of ``COUNTS`` replies at each of ``SETTINGS``."""
    chosen = examples(task, size, n)
    gold = [example.gold for example in chosen]
    texts = [evaluate.prompt(tok, [example]) for example in chosen]
    first = draw(model, tok, texts, None)
    base = [reply.answer == answer for reply, answer in zip(first, gold, strict=True)]
    price = sum(reply.tokens for reply in first)
    most = max(COUNTS)
    found = []
    for setting in SETTINGS:
        flat = draw(model, tok, [text for text in texts for _ in range(most)], setting)
        groups = [flat[at : at + most] for at in range(0, len(flat), most)]
        for count in COUNTS:
            some = [group[:count] for group in groups]
            plain = [verdict(group, False) == answer for group, answer in zip(some, gold, strict=True)]
            heavy = [verdict(group, True) == answer for group, answer in zip(some, gold, strict=True)]
            single = sum(r.answer == a for g, a in zip(some, gold, strict=True) for r in g) / (n * count)
            found.append(
                Gain(
                    f"{task}/{size}",
                    n,
                    sum(base) / n,
                    str(setting),
                    count,
                    single,
                    sum(plain) / n,
                    sum(heavy) / n,
                    _paired_error(base, heavy),
                    sum(reply.tokens for group in some for reply in group) / price,
                )
            )
    return found


def measure(
    model: Any, tok: PreTrainedTokenizerFast, n: int, sizes: Mapping[str, Sequence[int]] = SIZES
) -> list[Gain]:
    """Returns the gains at every task and size of ``sizes``, over ``n`` examples each."""
    return [
        gain for task, some in sizes.items() for size in some for gain in gains(model, tok, task, size, n)
    ]


def _paired_error(base: Sequence[bool], other: Sequence[bool]) -> float:
    """Return the standard error of the mean difference of two marks of the same tasks."""
    differences = [b - a for a, b in zip(base, other, strict=True)]
    mean = sum(differences) / len(differences)
    return math.sqrt(sum((d - mean) ** 2 for d in differences) / len(differences) ** 2)


def table(found: Sequence[Gain]) -> str:
    """Returns the figures as a Markdown table, gains in points over greedy."""
    names = "task | n | greedy | replies | drawn at | single | vote | weighted vote | gain, points | tokens"
    lines = [f"| {names} |", "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|"]
    for g in found:
        gain = f"{100 * (g.weighted - g.greedy):+.1f} +- {196 * g.error:.1f}"
        lines.append(
            f"| {g.task} | {g.n} | {g.greedy:.3f} | {g.count} | {g.setting} | {g.single:.3f} | {g.vote:.3f} "
            f"| {g.weighted:.3f} | {gain} | {g.tokens:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parses the command line, measures a checkpoint and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=model_path(), help="checkpoint folder")
    parser.add_argument("--n", type=int, default=300, help="examples of every task and size")
    parser.add_argument("--tasks", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--sizes", nargs="*", type=int, help="sizes instead of the default sizes")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = evaluate.load(args.model)
    found = measure(model, tok, args.n, {task: args.sizes or SIZES[task] for task in args.tasks})
    print(table(found))
    if args.json is not None:
        args.json.write_text(json.dumps([vars(gain) for gain in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
