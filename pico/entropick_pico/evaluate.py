"""Measures a checkpoint against the grammar: ``python -m entropick_pico.evaluate [--model DIR] [--n N]``.

Two tables: greedy accuracy by kind on held-out inputs and prompts, and measured entropy of the next token
against the grammar's truth at labelled positions, both in fp32. The truth is taken after tokenisation:
alternatives that share their first token are merged.
"""

import argparse
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from entropick_pico import grammar, model_path, tokenizer
from entropick_pico.tokenizer import Encoder, Row

_BATCH: Final = 64
_STOP: Final = 110


@dataclass(frozen=True)
class Accuracy:
    """The number of ``n`` greedy replies that end with the right answer."""

    n: int
    right: int

    @property
    def share(self) -> float:
        """Returns the share of right answers."""
        return self.right / self.n

    @property
    def error(self) -> float:
        """Returns the standard error of the share."""
        return math.sqrt(self.share * (1 - self.share) / self.n)


@dataclass(frozen=True)
class EntropyError:
    """The measured entropy against the true entropy (bits) over ``n`` labelled positions of one kind."""

    n: int
    truth: float
    measured: float
    absolute: float
    bias: float
    true_varentropy: float
    measured_varentropy: float


def load(folder: Path, device: str = "cpu") -> tuple[Any, PreTrainedTokenizerFast]:
    """Loads a checkpoint in fp32 with its tokenizer."""
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.to(device).eval(), tokenizer.load(folder)


def prompt(tok: PreTrainedTokenizerFast, talk: Sequence[grammar.Example]) -> str:
    """Returns the prompt for the last reply of a conversation, as the chat template writes it."""
    tools: list[Any] = [dict(tool) for example in talk for tool in example.tools]
    messages = [message for example in talk for message in example.messages]
    text = tok.apply_chat_template(
        messages[:-1], tools=tools or None, tokenize=False, add_generation_prompt=True
    )
    return str(text)


@torch.inference_mode()
def complete(model: Any, tok: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[str]:
    """Returns the greedy replies to ``texts``, each a prompt as the chat template writes it."""
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    replies = [""] * len(texts)
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        batch = tok(
            [texts[at] for at in chosen],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        width = batch["input_ids"].shape[1]
        tokens = model.generate(
            input_ids=batch["input_ids"].to(model.device),
            attention_mask=batch["attention_mask"].to(model.device),
            do_sample=False,
            max_new_tokens=_STOP,
        )
        for at, row in zip(chosen, tokens[:, width:], strict=True):
            replies[at] = str(tok.decode(row, skip_special_tokens=True))
    return replies


def greedy(model: Any, tok: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    """Returns the greedy replies to ``prompts``, each the user text of a conversation of its own."""
    return complete(model, tok, [prompt(tok, [grammar.Example(user, "", "")]) for user in prompts])


def accuracies(model: Any, tok: PreTrainedTokenizerFast, n: int, seed: int = 11) -> dict[str, Accuracy]:
    """Returns the greedy accuracy on ``n`` check examples of every kind that has a right answer.

    Kinds whose difficulty has a size also appear by size, such as ``sort/8``.
    """
    rng = random.Random(seed)
    found: dict[str, list[bool]] = {}
    for kind in grammar.KINDS + grammar.PROBES + grammar.TOOL_KINDS:
        talks = [_talk(rng, kind) for _ in range(n)]
        talks = [talk for talk in talks if talk[-1].gold is not None or kind == "greeting"]
        if not talks:
            continue
        replies = complete(model, tok, [prompt(tok, talk) for talk in talks])
        for (*_, example), reply in zip(talks, replies, strict=True):
            right = grammar.right(example, reply)
            found.setdefault(kind, []).append(right)
            size = _size(example)
            if size:
                found.setdefault(f"{kind}/{size}", []).append(right)
    return {kind: Accuracy(len(marks), sum(marks)) for kind, marks in sorted(found.items())}


def _talk(rng: random.Random, kind: str) -> list[grammar.Example]:
    """Return a check example of ``kind`` with what has to stand before it."""
    if kind not in grammar.TOOL_KINDS:
        return [grammar.sample(rng, kind, "check")]
    talk = grammar.tool_talk(rng, "check", "no_tool" if kind == "no_tool" else "call")
    return talk if kind == "report" else talk[:1]


def _size(example: grammar.Example) -> str:
    """Returns the size of a task input: its length in digits, bits, holders, items or open cells."""
    digits = re.findall(r"\d+", example.user)
    if example.kind.startswith("add"):
        return str(len(digits[0]))
    if example.kind.startswith(("sort", "parity")):
        return str(len(digits))
    if example.kind.startswith("latin"):
        return str(len(example.gold or ""))
    if example.kind.startswith(("sums", "mix")):
        return str(example.assistant.count("+") + 1)
    if example.kind == "lookup":
        return str(example.user.count(" has a "))
    return ""


def _moments(p: torch.Tensor) -> tuple[float, float]:
    """Returns entropy (bits) and varentropy (bits squared) of a distribution."""
    surprise = -(p.clamp_min(1e-30).log2())
    entropy = float((p * surprise).sum())
    return entropy, float((p * (surprise - entropy) ** 2).sum())


@torch.inference_mode()
def entropy_errors(
    model: Any, tok: PreTrainedTokenizerFast, n: int, seed: int = 12
) -> dict[str, EntropyError]:
    """Returns measured against true entropy by label kind, over ``n`` check examples of every task kind."""
    rng = random.Random(seed)
    encoder = Encoder(tok)
    measured: dict[str, list[tuple[float, float, float, float]]] = {}
    for kind in grammar.KINDS + grammar.TOOL_KINDS:
        rows = [encoder.encode_talk(_talk(rng, kind)) for _ in range(n)]
        for start in range(0, len(rows), _BATCH):
            for name, found in _measure(model, rows[start : start + _BATCH]):
                measured.setdefault(name, []).append(found)
    errors = {}
    for name, values in sorted(measured.items()):
        count = len(values)
        truth, true_v, entropy, varentropy = (sum(column) / count for column in zip(*values, strict=True))
        absolute = sum(abs(value[2] - value[0]) for value in values) / count
        errors[name] = EntropyError(count, truth, entropy, absolute, entropy - truth, true_v, varentropy)
    return errors


def _measure(model: Any, rows: Sequence[Row]) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Returns (label kind, (true H, true V, measured H, measured V)) at every labelled position."""
    width = max(len(row.ids) for row in rows)
    tokens = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        tokens[number, : len(row.ids)] = torch.tensor(row.ids)
    log_p = model(input_ids=tokens.to(model.device), use_cache=False).logits.float().log_softmax(-1).cpu()
    found = []
    for number, row in enumerate(rows):
        for at, _, probabilities, name in row.truths:
            truth = _moments(torch.tensor(probabilities, dtype=torch.float64))
            found.append((name, (*truth, *_moments(log_p[number, at - 1].double().exp()))))
    return found


def tables(scores: Mapping[str, Accuracy], errors: Mapping[str, EntropyError]) -> str:
    """Returns both tables as Markdown."""
    lines = ["| kind | n | greedy accuracy | s.e. |", "|---|---:|---:|---:|"]
    lines += [f"| {kind} | {a.n} | {a.share:.3f} | {a.error:.3f} |" for kind, a in scores.items()]
    lines += ["", "| label | n | true H | measured H | mean abs. error | bias | true V | measured V |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
    for name, e in errors.items():
        lines.append(
            f"| {name} | {e.n} | {e.truth:.3f} | {e.measured:.3f} | {e.absolute:.3f} | {e.bias:+.3f} "
            f"| {e.true_varentropy:.2f} | {e.measured_varentropy:.2f} |"
        )
    return "\n".join(lines)


def report(scores: Mapping[str, Accuracy], errors: Mapping[str, EntropyError]) -> dict[str, Any]:
    """Returns both tables as plain data."""
    return {
        "accuracy": {kind: {"n": a.n, "accuracy": round(a.share, 4)} for kind, a in scores.items()},
        "entropy_bits": {
            name: {key: round(value, 4) for key, value in vars(e).items()} for name, e in errors.items()
        },
    }


def main() -> None:
    """Parses the command line, measures a checkpoint and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=model_path(), help="checkpoint folder")
    parser.add_argument("--n", type=int, default=200, help="examples of every kind")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = load(args.model, args.device)
    scores, errors = accuracies(model, tok, args.n), entropy_errors(model, tok, args.n)
    print(tables(scores, errors))
    if args.json is not None:
        args.json.write_text(json.dumps(report(scores, errors), indent=1) + "\n")


if __name__ == "__main__":
    main()
