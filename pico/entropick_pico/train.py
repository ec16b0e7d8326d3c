"""The training recipe, which writes a checkpoint with its log: ``python -m entropick_pico.train --out DIR``.

One thread, fixed seeds and a schedule counted in steps make a run reproducible on one kind of machine;
between kinds of machine only the metrics are comparable.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from entropick_pico import grammar, tokenizer
from entropick_pico.batches import Batch, collate, expected_loss, stage_weights, stream
from entropick_pico.optim import Optimizer

_WATCHED: Final = (
    "capital",
    "flag",
    "answerable",
    "lookup",
    "sort",
    "add_steps",
    "add_direct",
    "parity_steps",
    "parity_direct",
    "count",
)
_LABELLED: Final = ("town", "name", "word", "home", "visit", "ambiguous", "pick")


@dataclass(frozen=True)
class Recipe:
    """The settings that decide the outcome of a run."""

    steps: int = 7000
    batch_tokens: int = 3072
    seed: int = 1
    lr: float = 2e-3
    muon_lr: float = 0.01
    early_lr: float = 4e-3
    early_muon_lr: float = 0.03
    early_until: float = 0.2857
    warmup: int = 100
    decay_from: float = 0.4
    first_stage: float = 0.08
    second_stage: float = 0.3
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 352

    def rates(self, step: int) -> tuple[float, float]:
        """Returns the learning rates of AdamW and Muon at ``step``.

        After a warmup come a high plateau, which is quick to learn facts, a lower one, since computed answers
        do not settle at the high rates, and a linear decay to 1 %.
        """
        left = (self.steps - step) / (self.steps * (1 - self.decay_from))
        scale = min(1.0, (step + 1) / self.warmup, max(0.01, left))
        if step < self.early_until * self.steps:
            return scale * self.early_lr, scale * self.early_muon_lr
        return scale * self.lr, scale * self.muon_lr


def new_model(recipe: Recipe, tok: PreTrainedTokenizerFast) -> Any:
    """Returns a freshly initialised model."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=(len(tok) + 31) // 32 * 32,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    build: Any = LlamaForCausalLM
    return build(config)


def supervised_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Returns the logits at the positions that carry loss; the head runs on these positions alone."""
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    logits: torch.Tensor = model.lm_head(hidden[batch.rows, batch.columns])
    return logits


def save(model: Any, tok: PreTrainedTokenizerFast, folder: Path, log: list[dict[str, Any]]) -> None:
    """Writes the checkpoint in fp16 with tokenizer, generation config and training log."""
    weights = {name: tensor.detach().cpu().half() for name, tensor in model.state_dict().items()}
    copy = type(model)(model.config).half()
    copy.load_state_dict(weights)
    generation: Any = GenerationConfig
    copy.generation_config = generation(
        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id
    )
    copy.save_pretrained(folder)
    add_rope_theta(folder / "config.json")
    tok.save_pretrained(folder)
    (folder / "train_log.json").write_text(json.dumps(log, indent=0) + "\n")


def add_rope_theta(path: Path) -> None:
    """Writes the rotary base of a config.json a second time, as the top-level ``rope_theta``.

    transformers 5 writes it under ``rope_parameters`` alone. Other engines know only the older place, and
    refuse the model or take another base where it is missing.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class Watch:
    """A small fixed check set: exact replies under teacher forcing and entropy error at labels."""

    def __init__(self, encoder: tokenizer.Encoder, pad: int, count: int) -> None:
        """Draws ``count`` examples of every watched kind from the check split."""
        rng = random.Random(99)

        def draw(kind: str) -> Batch:
            talks = [[grammar.sample(rng, kind, "check")] for _ in range(count)]
            return collate([encoder.encode_talk(talk) for talk in talks], pad)

        self._exact = {kind: draw(kind) for kind in _WATCHED}
        self._labels = {kind: draw(kind) for kind in _LABELLED}

    @torch.no_grad()
    def __call__(self, model: Any) -> dict[str, float]:
        """Measures the model on the watched examples."""
        model.eval()
        found: dict[str, float] = {}
        for kind, batch in self._exact.items():
            on = batch.to(model.device)
            wrong = supervised_logits(model, on).argmax(-1) != on.targets
            bad = torch.zeros(len(on.tokens), device=model.device).index_add_(0, on.rows, wrong.float())
            found[kind] = round((bad == 0).float().mean().item(), 3)
        for kind, batch in self._labels.items():
            on = batch.to(model.device)
            log_p = supervised_logits(model, on).log_softmax(-1)
            labelled = on.hard == 0
            measured = -(log_p.exp() * log_p).sum(-1)[labelled].sum()
            truth = -(on.soft_p * on.soft_p.log()).sum()
            found["bias_" + kind] = round(((measured - truth) / labelled.sum() / 0.693147).item(), 3)
        model.train()
        return found


def batches(
    recipe: Recipe, encoder: tokenizer.Encoder, pad: int, start: int = 0
) -> Iterator[tuple[int, Batch]]:
    """Yields (step, batch) to the end of the run; each stage of the curriculum has a stream of its own."""
    current: tuple[Any, Iterator[Batch]] | None = None
    for step in range(start, recipe.steps):
        weights = stage_weights(step / recipe.steps, recipe.first_stage, recipe.second_stage)
        if current is None or current[0] != weights:
            rng = random.Random(recipe.seed * 1_000_003 + step)
            current = weights, stream(encoder, rng, pad, recipe.batch_tokens, weights)
        yield step, next(current[1])


def train(
    recipe: Recipe,
    out: Path,
    every: int = 250,
    device: str = "cpu",
    resume: Path | None = None,
    watched: int = 40,
) -> list[dict[str, Any]]:
    """Trains by ``recipe``, saving to ``out`` every ``every`` steps and at the end; returns the log.

    ``watched`` is the number of check examples of each kind that a log entry is measured on.
    """
    out.mkdir(parents=True, exist_ok=True)
    tok = tokenizer.build()
    encoder = tokenizer.Encoder(tok)
    pad = encoder.ids(tokenizer.PAD)[0]
    model = new_model(recipe, tok).to(device)
    optimizer = Optimizer(model)
    watch = Watch(encoder, pad, watched)
    parameters = sum(p.numel() for p in model.parameters())
    log: list[dict[str, Any]] = [{"recipe": asdict(recipe), "parameters": parameters}]
    start = seen = supervised = 0
    if resume is not None:
        state = torch.load(resume, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.restore(state["optimizer"])
        start, seen, supervised = state["step"], state["seen"], state["supervised"]
        log = [*state["log"], {"resumed_at": start, **log[0]}]
    began, total, counted = time.monotonic(), 0.0, 0
    for step, batch in batches(recipe, encoder, pad, start):
        on = batch.to(model.device)
        loss = expected_loss(supervised_logits(model, on), on)
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(*recipe.rates(step))
        seen, supervised = seen + batch.tokens.numel(), supervised + len(batch.targets)
        total, counted = total + loss.item(), counted + 1
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            entry = {
                "step": step + 1,
                "tokens": seen,
                "supervised": supervised,
                "seconds": round(time.monotonic() - began, 1),
                "loss": round(total / counted, 4),
                **watch(model),
            }
            log.append(entry)
            print(json.dumps(entry), flush=True)
            total, counted = 0.0, 0
            save(model, tok, out, log)
            state = {"model": model.state_dict(), "optimizer": optimizer.state(), "log": log}
            state |= {"step": step + 1, "seen": seen, "supervised": supervised}
            torch.save(state, out / "state.pt")
    (out / "state.pt").unlink(missing_ok=True)
    return log


def main() -> None:
    """Parses the command line and trains a model."""
    default = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=default.steps, help="length of the whole schedule")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--batch-tokens", type=int, default=default.batch_tokens)
    parser.add_argument("--every", type=int, default=250, help="steps between log lines and checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", type=Path, help="state.pt of an interrupted run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(args.steps, args.batch_tokens, args.seed)
    train(recipe, args.out, args.every, args.device, args.resume)


if __name__ == "__main__":
    main()
