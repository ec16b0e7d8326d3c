"""Writes the model card of a checkpoint from its training log and a fresh evaluation.

``python -m entropick_pico.card --model DIR`` evaluates the checkpoint and puts ``MODEL_CARD.md`` beside it.
``previous.json`` holds the figures of the model that was shipped before, for the comparison.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from entropick_pico import evaluate, grammar, votes
from entropick_pico.evaluate import Accuracy, EntropyError
from entropick_pico.grammar import latin, merging, puzzles
from entropick_pico.votes import Gain

CLAIM: Final = 0.25
_PREVIOUS: Final = Path(__file__).with_name("previous.json")
# Blind guessing among the answers a question allows; other kinds have next to none.
CHANCE: Final[Mapping[str, float]] = MappingProxyType(
    {"parity": 0.5, "parity_steps": 0.5, "parity_direct": 0.5, "lookup": 0.42}
)
_TEXT: Final = """# entropick pico

A Llama-architecture language model of {parameters:,} parameters, trained from scratch on a synthetic
chat grammar whose conditional distributions are known. It exists to be measured: at labelled positions
the true entropy of the next token is known, so what a server measures can be held against the truth. It
knows nothing about the real world.

## Files

| file | sha256 |
|---|---|
{hashes}

Weights are fp16; the figures below were measured in fp32 on a CPU.

## Data

Conversations of one to four exchanges from `entropick_pico.grammar` (seeded, standard library only),
{kinds} kinds: {kind_list}. Prompts are combinations of openers, wordings and closers. Tasks with a
large input space keep one input in eight from training, by a hash of the input; prompts are divided by
another hash into a calibration half and a check half. All figures here are on check prompts and, where
inputs are held out, on held-out inputs.

**The clarifying alternative.** An ambiguous question ("What color is it?" with nothing before it) is
answered by one of N equally likely guesses (N = 8, 16 or 32) or, as one further alternative with
probability 1/(N+1), by "Which one do you mean?". Entropy there is log2(N+1) and varentropy 0, as for a
plain random choice; only the context differs. After the question the turn ends (0.5) or goes on " I can
guess: ..." (0.5). In one exchange in twenty the sentence is forced into a reply of another kind,
without loss on it, so the model carries on after an insertion and no true distribution changes.

**Any order.** A sum of two-digit numbers modulo 100 (`sums`), a mixture of colors by a fixed table of 136
pairs (`mix`) and the open cells of a Latin square of four rows (`latin`) are worked out in steps that may
come in any order. The answer is the same in every order, what has to be computed on the way is not. What is
taken next is drawn from all that is left, so its entropy is known (`sums_pick`, `mix_pick`, `latin_cell`;
of a two-digit number and of a cell each of the two tokens); results are certain. A puzzle has one solution.

**JSON and tools.** `json_fields` takes values from a sentence by the keys of a form, `json_free` chooses
one at random. Tools stand in the system turn as signatures, `get_age(name: string)`, and their names are
drawn anew for each conversation; a call is `<tool_call>{{"name": ..., "arguments": ...}}</tool_call>`, its
result a turn of the role `tool`, from which the answer is taken. The tokenizer's `response_template` parses
calls (transformers' `parse_response`). One call a turn is trained; where no tool fits, the model says so.

**The fork.** Where no style is asked for, a reply to an addition or a parity question begins "The"
(0.6) and blurts the answer, or "Step" (0.4) and works it out. The second leads to the right answer far
more often.

## Recipe

`{command}` (`make model`; `UNTIL=0` and `UNTIL=.5` write the checkpoints at the start and half way)

{tokens:,} training tokens, padding included ({supervised:,} of them carry loss), {steps:,} steps, seed
{seed}, one run of {minutes} minutes of one CPU thread; Muon for the matrices in the
blocks, AdamW for the rest; loss on assistant tokens and `<|im_end|>` only. At labelled positions the
loss is the cross entropy with the TRUE distribution, which is its expectation over samples without the
noise. A run that is interrupted goes on to the same bits. `train_log.json` has the whole course. Between
kinds of machine, compare metrics, not bits.

## Greedy accuracy

Of the last answer in the reply; `kind/size` counts digits, bits, holders, items or open cells. Sizes
within a kind are subsets of it. The `_long` kinds are longer than anything in training: ten digits where it
has {longest} at most, eleven numbers and colors where it has {most}, eight open cells where it has {open}.
JSON, calls and reports count where the whole reply is right. `python -m entropick_pico.evaluate` prints this
table and the next.

{accuracy}

## Entropy of the next token, bits

Truth after tokenisation: alternatives that share their first token are merged. {positions:,} positions.
Labels of task answers have true entropy 0: what is measured there is the model's own doubt.

{entropy}

## Several replies

Where many texts lead to one answer, several replies can mend what a single reply gets wrong. A weighted vote
gives a reply the weight 2 ** (-its largest excess surprisal); excess is a token's surprisal minus the
entropy it was drawn from. Points are weighted vote minus greedy with a 95 % interval of the paired
difference; tokens are multiples of greedy's. `python -m entropick_pico.votes`.

{votes}

## Against the previous model

What the card of the model that was shipped before claimed ({before:,} parameters), and the same figure of
this model: greedy accuracy where it was at least 0.5 and above chance, and the mean absolute error of the
entropy where it was within {claim} bits. "Worse" is a share lower by more than two standard errors of the
difference, or an error beyond {claim} bits.

{against}

## What is learned and what is not

- Learned (greedy accuracy at least 0.9): {learned}.
- In between (at least 0.5, and 0.1 above chance): {between}.
- Not learned (chance is 0.5 for parity, about 0.42 for lookup): {failed}.
- Labels within {claim} bits of the truth on average: {claimed}.
- Labels further off, for which nothing is claimed: {unclaimed}.

## Limits

A toy: English-looking text on a vocabulary of a few hundred words, conversations up to 512 tokens in
training (positions to 1,024 exist but are untrained), each exchange independent of the ones before it.
Anything outside the grammar gets a confident answer to some other question. Randomly inserted
clarifying sentences in the middle of a calculation may derail it. Use it to study sampling and
measurement, for nothing else.
"""


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _against(
    before: Mapping[str, Any], scores: Mapping[str, Accuracy], errors: Mapping[str, EntropyError]
) -> str:
    """Return every claim of the card before this one, with the figure of now, as a table."""
    lines = ["| claim | before | now | |", "|---|---:|---:|---|"]
    for kind, old in before["accuracy"].items():
        share = old["accuracy"]
        if "/" in kind or share < max(0.5, CHANCE.get(kind, 0.0) + 0.1):
            continue
        score = scores[kind]
        spread = math.hypot(math.sqrt(share * (1 - share) / old["n"]), score.error)
        verdict = "worse" if score.share < share - 2 * spread else "as before or better"
        lines.append(f"| accuracy of {kind} | {share:.3f} | {score.share:.3f} | {verdict} |")
    for name, old in before["entropy_bits"].items():
        if old["absolute"] > CLAIM:
            continue
        if name not in errors:
            lines.append(f"| entropy of {name} | {old['absolute']:.3f} | | not measured |")
            continue
        now = errors[name].absolute
        verdict = "worse" if now > CLAIM else "as before or better"
        lines.append(f"| entropy of {name} | {old['absolute']:.3f} | {now:.3f} | {verdict} |")
    return "\n".join(lines)


def compose(
    folder: Path,
    scores: Mapping[str, Accuracy],
    errors: Mapping[str, EntropyError],
    gains: Sequence[Gain],
) -> str:
    """Returns the card of the checkpoint in ``folder``."""
    before = json.loads(_PREVIOUS.read_text(encoding="utf-8"))
    log = json.loads((folder / "train_log.json").read_text())
    recipe = [entry["recipe"] for entry in log if "recipe" in entry][-1]
    last = [entry for entry in log if "loss" in entry][-1]
    hashes = [
        f"| `{name}` | {hashlib.sha256((folder / name).read_bytes()).hexdigest()} |"
        for name in ("model.safetensors", "tokenizer.json")
    ]
    kinds = {kind: score.share for kind, score in scores.items() if "/" not in kind}
    some = [k for k, share in kinds.items() if share >= max(0.5, CHANCE.get(k, 0.0) + 0.1)]
    near = {name: error.absolute <= CLAIM for name, error in errors.items()}
    accuracy, entropy = evaluate.tables(scores, errors).split("\n\n")
    return _TEXT.format(
        parameters=log[0]["parameters"],
        hashes="\n".join(hashes),
        kinds=len(grammar.KINDS + grammar.TOOL_KINDS),
        kind_list=", ".join(grammar.KINDS + grammar.TOOL_KINDS),
        command=f"python -m entropick_pico.train --out DIR --steps {recipe['steps']}",
        tokens=last["tokens"],
        supervised=last["supervised"],
        steps=last["step"],
        seed=recipe["seed"],
        minutes=round(last["seconds"] / 60),
        votes=votes.table(gains),
        before=before["parameters"],
        against=_against(before, scores, errors),
        accuracy=accuracy,
        entropy=entropy,
        positions=sum(error.n for error in errors.values()),
        learned=_names([k for k, share in kinds.items() if share >= 0.9]),
        between=_names([f"{k} ({kinds[k]:.2f})" for k in some if kinds[k] < 0.9]),
        failed=_names([f"{k} ({share:.2f})" for k, share in kinds.items() if k not in some]),
        claim=CLAIM,
        longest=puzzles.LONGEST,
        most=merging.MOST,
        open=latin.MOST_OPEN,
        claimed=_names([name for name, good in near.items() if good]),
        unclaimed=_names([f"{n} ({errors[n].absolute:.2f})" for n, good in near.items() if not good]),
    )


def main() -> None:
    """Parses the command line, evaluates the checkpoint and writes its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--n", type=int, default=200, help="examples of every kind")
    parser.add_argument("--votes", type=int, default=300, help="examples of every task and size of a vote")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = evaluate.load(args.model)
    scores = evaluate.accuracies(model, tok, args.n)
    errors = evaluate.entropy_errors(model, tok, args.n)
    gains = votes.measure(model, tok, args.votes)
    card = compose(args.model, scores, errors, gains)
    (args.model / "MODEL_CARD.md").write_text(card)
    worse = [line for line in card.splitlines() if line.endswith(("| worse |", "| not measured |"))]
    print(
        "\n".join(["claims that do not hold as before:", *worse])
        if worse
        else "every claim holds as before or better"
    )


if __name__ == "__main__":
    main()
