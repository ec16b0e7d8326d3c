"""Writes the model card of a checkpoint from its training log and a fresh evaluation.

``python -m entropick_pico.card --model DIR`` evaluates the checkpoint and puts ``MODEL_CARD.md`` beside it.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from entropick_pico import evaluate, grammar
from entropick_pico.evaluate import Accuracy, EntropyError

CLAIM: Final = 0.25
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

**The fork.** Where no style is asked for, a reply to an addition or a parity question begins "The"
(0.6) and blurts the answer, or "Step" (0.4) and works it out. The second leads to the right answer far
more often.

## Recipe

`{command}`

{tokens:,} training tokens, padding included ({supervised:,} of them carry loss), {steps:,} steps, seed
{seed}, {minutes} minutes of wall clock on one thread of a shared CPU; Muon for the matrices in the
blocks, AdamW for the rest; loss on assistant tokens and `<|im_end|>` only. At labelled positions the
loss is the cross entropy with the TRUE distribution, which is its expectation over samples without the
noise. {sittings}`train_log.json` has the whole course. Between kinds of machine, compare metrics, not
bits.

## Greedy accuracy

Of the last answer in the reply; `kind/size` counts digits, bits or holders. Sizes within a kind are
subsets of it. The `_long` kinds have lists of ten digits where training has eight at most.

{accuracy}

## Entropy of the next token, bits

Truth after tokenisation: alternatives that share their first token are merged. {positions:,} positions.
Labels of task answers have true entropy 0: what is measured there is the model's own doubt.

{entropy}

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


def _sittings(log: Sequence[Mapping[str, Any]]) -> str:
    """Say where the run was interrupted, if it was."""
    at = [entry for entry in log if "resumed_at" in entry]
    if not at:
        return ""
    places = ", ".join(f"{entry['resumed_at']:,}" for entry in at)
    return (
        f"This checkpoint was trained in {len(at) + 1} sittings, resumed at steps {places} with the "
        "data stream seeded anew and the schedule revised; the command runs the final schedule in one "
        "sitting, so its result will be like this one, not equal to it. "
    )


def _seconds(log: Sequence[Mapping[str, Any]]) -> float:
    """Returns the time of all sittings."""
    total = last = 0.0
    for entry in log:
        if "resumed_at" in entry:
            total, last = total + last, 0.0
        last = entry.get("seconds", last)
    return total + last


def compose(folder: Path, scores: Mapping[str, Accuracy], errors: Mapping[str, EntropyError]) -> str:
    """Returns the card of the checkpoint in ``folder``."""
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
        kinds=len(grammar.KINDS),
        kind_list=", ".join(grammar.KINDS),
        command=f"python -m entropick_pico.train --out DIR --steps {recipe['steps']}",
        tokens=last["tokens"],
        supervised=last["supervised"],
        steps=last["step"],
        seed=recipe["seed"],
        minutes=round(_seconds(log) / 60),
        sittings=_sittings(log),
        accuracy=accuracy,
        entropy=entropy,
        positions=sum(error.n for error in errors.values()),
        learned=_names([k for k, share in kinds.items() if share >= 0.9]),
        between=_names([f"{k} ({kinds[k]:.2f})" for k in some if kinds[k] < 0.9]),
        failed=_names([f"{k} ({share:.2f})" for k, share in kinds.items() if k not in some]),
        claim=CLAIM,
        claimed=_names([name for name, good in near.items() if good]),
        unclaimed=_names([f"{n} ({errors[n].absolute:.2f})" for n, good in near.items() if not good]),
    )


def main() -> None:
    """Parses the command line, evaluates the checkpoint and writes its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--n", type=int, default=200, help="examples of every kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = evaluate.load(args.model)
    scores = evaluate.accuracies(model, tok, args.n)
    errors = evaluate.entropy_errors(model, tok, args.n)
    (args.model / "MODEL_CARD.md").write_text(compose(args.model, scores, errors))


if __name__ == "__main__":
    main()
