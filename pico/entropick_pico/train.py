"""Trains a model by its recipe and writes a checkpoint: ``python -m entropick_pico.train --out DIR``.

One thread, fixed seeds and a schedule counted in steps make a run reproducible on one kind of machine;
between kinds of machine only the metrics are comparable. A run that was interrupted goes on from the state
in its folder, to the bit as if it had not been. ``--until 0.5`` stops half way and leaves the checkpoint
and the state; ``--until 0`` writes the model as it begins.
"""

import argparse
import hashlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from entropick_pico import lexicon, tokenizer
from entropick_pico.batches import Place, expected_loss, rows, stream
from entropick_pico.forward import supervised_logits
from entropick_pico.optim import Optimizer
from entropick_pico.recipe import STAGES, Recipe
from entropick_pico.watch import Watch

STATE: Final = "state.pt"


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


def save(model: Any, tok: PreTrainedTokenizerFast, folder: Path, log: list[dict[str, Any]]) -> None:
    """Writes the checkpoint in fp16 with tokenizer, generation config, lexicon and training log."""
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
    lexicon.write(folder)
    (folder / "train_log.json").write_text(json.dumps(log, indent=0) + "\n")


def add_rope_theta(path: Path) -> None:
    """Writes the rotary base of a config.json a second time, as the top-level ``rope_theta``.

    transformers 5 writes it under ``rope_parameters`` alone. Other engines know only the older place, and
    refuse the model or take another base where it is missing.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def fingerprint(recipe: Recipe, encoder: tokenizer.Encoder) -> str:
    """Returns a hash of the recipe and of a sample of its data, equal for runs that may go on as one run."""
    digest = hashlib.sha256(repr(recipe).encode())
    for number, stage in enumerate(STAGES):
        for row in rows(encoder, random.Random(f"{recipe.seed} sample {number}"), stage, 100):
            digest.update(repr((row.ids, row.loss, row.truths)).encode())
    return digest.hexdigest()


class Run:
    """A training run: model, optimiser, place in the data, and log; saved and restored as a whole."""

    def __init__(self, recipe: Recipe, device: str, watched: int) -> None:
        """Starts a run of ``recipe``; ``watched`` counts the check examples a kind that a log entry has."""
        self.recipe = recipe
        self.tok = tokenizer.build()
        self.encoder = tokenizer.Encoder(self.tok)
        self.pad = self.encoder.ids(tokenizer.PAD)[0]
        self.model = new_model(recipe, self.tok).to(device)
        self.optimizer = Optimizer(self.model)
        self.fingerprint = fingerprint(recipe, self.encoder)
        self._watch = Watch(self.encoder, self.pad, watched)
        parameters = sum(p.numel() for p in self.model.parameters())
        self.log: list[dict[str, Any]] = [{"recipe": asdict(recipe), "parameters": parameters}]
        self.place = Place()
        self.step = self.seen = self.supervised = self.counted = 0
        self.seconds = self.total = 0.0

    def restore(self, path: Path) -> None:
        """Restores the state saved at ``path``; ValueError if it is of another recipe or of other data."""
        state: Mapping[str, Any] = torch.load(path, map_location=self.model.device, weights_only=False)
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(f"{path} is of another recipe or grammar: remove it to begin anew")
        self.model.load_state_dict(state["model"])
        self.optimizer.restore(state["optimizer"])
        self.log, self.place = state["log"], Place(*state["place"])
        self.step, self.seen, self.supervised, self.counted, self.seconds, self.total = state["counts"]

    def save(self, out: Path) -> None:
        """Writes the checkpoint and the state; a kill leaves the old state or the new, never a half."""
        save(self.model, self.tok, out, self.log)
        state = {
            "fingerprint": self.fingerprint,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state(),
            "log": self.log,
            "place": (self.place.stage, self.place.pool, self.place.batch),
            "counts": (self.step, self.seen, self.supervised, self.counted, self.seconds, self.total),
        }
        torch.save(state, out / (STATE + ".new"))
        (out / (STATE + ".new")).replace(out / STATE)

    def note(self) -> None:
        """Measures the model and appends an entry to the log."""
        entry = {
            "step": self.step,
            "tokens": self.seen,
            "supervised": self.supervised,
            "seconds": round(self.seconds, 1),
            "loss": round(self.total / max(1, self.counted), 4),
            **self._watch(self.model),
        }
        self.log.append(entry)
        print(json.dumps(entry), flush=True)
        self.total, self.counted = 0.0, 0

    def advance(self, out: Path, last: int, every: int) -> None:
        """Trains to step ``last``; logs and saves to ``out`` every ``every`` steps and at the end."""
        batches = stream(self.encoder, self.recipe, self.pad, self.step, self.place)
        while self.step < last:
            began = time.process_time()
            batch, place = next(batches)
            on = batch.to(self.model.device)
            loss = expected_loss(supervised_logits(self.model, on), on)
            self.model.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step(*self.recipe.rates(self.step))
            self.step, self.place = self.step + 1, place
            self.seen += batch.tokens.numel()
            self.supervised += len(batch.targets)
            self.total += loss.item()
            self.counted += 1
            self.seconds += time.process_time() - began
            if self.step % every == 0 or self.step == last:
                self.note()
                self.save(out)


def train(
    recipe: Recipe,
    out: Path,
    every: int = 250,
    device: str = "cpu",
    until: float = 1.0,
    watched: int = 40,
) -> list[dict[str, Any]]:
    """Trains by ``recipe``, or goes on where a run in ``out`` stopped; returns the log.

    Saves to ``out`` every ``every`` steps. ``until`` is the fraction of the run to stop at; at the end the
    state is removed, before it is kept, so the run can go on. ``watched`` counts the check examples of each
    kind that a log entry is measured on.
    """
    last = recipe.until(until)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(recipe, device, watched)
    if (out / STATE).exists():
        run.restore(out / STATE)
        if run.step > last:
            raise ValueError(f"the run in {out} is at step {run.step}, past the {last} that were asked for")
    run.advance(out, last, every)
    if last == 0:
        run.save(out)
    if last == recipe.steps:
        (out / STATE).unlink(missing_ok=True)
    return run.log


def main() -> None:
    """Parses the command line and trains a model."""
    default = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=default.steps, help="length of the whole schedule")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--batch-tokens", type=int, default=default.batch_tokens)
    parser.add_argument("--every", type=int, default=250, help="steps between log lines and checkpoints")
    parser.add_argument("--until", type=float, default=1.0, help="fraction of the run to stop at, 0 to 1")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(Recipe(args.steps, args.batch_tokens, args.seed), args.out, args.every, args.device, args.until)


if __name__ == "__main__":
    main()
