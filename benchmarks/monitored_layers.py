"""Which decisions change where fewer layers are monitored, and what a token costs then.

Decisions: one engine monitors all layers and answers prompts; at each token that it decides, the same logits,
the same reply so far and the same random numbers are decided again by the server's own step with the signals
of some layers alone, under the profile that calibration fits to them. So every token counts for itself, and a
changed one has no consequences. Compared are the layers that ``--monitored-layers auto:SHARE`` takes
(``entropick inspect MODEL --sections head_attention`` must have run) with random choices of as many; of few
layers, every choice.

    python benchmarks/monitored_layers.py [--model smollm2] [--shares 0.5 0.25] [--draws 100] [--prompts 40]

Cost (``--cost``): one engine whose steps take turns, all layers in one and fewer in the next; ratios are of
neighbouring steps. Nothing else is measured there: no genuineness, no telemetry.

    python benchmarks/monitored_layers.py --model smollm2 --cost [--rows 1 16] [--length 120]
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _common import unseen_examples
from engine import header
from entropick_eval.tasks import find_tasks, limited, read_tasks
from entropick_pico import calibration_path, model_path
from entropick_sampler.batch import SampledBatch
from entropick_sampler.calibrate import MeasuredTokens, fit
from entropick_sampler.packed import TokenRow, unpack
from entropick_sampler.params import SEVERAL_TEMPERATURE, PolicyConfig, SamplingParams
from entropick_sampler.profile import Profile
from entropick_server.calibration.samples import read_samples
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.forward import ForwardOutput
from entropick_server.engine.embedded.startup import open_core
from entropick_server.engine.inspected import inspected_layers
from entropick_server.engine.profiles import default_cache
from entropick_server.engine.reply import Drawn, step_columns
from entropick_server.engine.types import EngineOptions, Request
from genuineness import fill, step

TASKS = ["capitals", "places", "elements", "opposites", "kinds", "meanings", "forms", "first_letters"]
TASKS += ["operations", "word_problems", "extremes", "open"]
ROWS = 16
CASES = {
    "default": ("calibrated", None),
    "drawn": ("calibrated", SEVERAL_TEMPERATURE),
    "seed": ("seed", None),
}
"""preset and temperature"""
Layers = tuple[int, ...]
Seen = Callable[[ForwardOutput, list[Drawn]], None]


@dataclass
class Counts:
    """How a choice of layers decided, by reply: tokens, and those with another strategy, parameter and
    token."""

    tokens: dict[str, int] = field(default_factory=dict)
    changed: dict[str, list[int]] = field(default_factory=dict)
    """request -> other strategy, other temperature or filter, other token"""

    def add(self, request: str, full: TokenRow, own: TokenRow) -> None:
        """Compares a token's decision with that of all layers."""
        self.tokens[request] = self.tokens.get(request, 0) + 1
        parameters = [
            (r.temperature, r.top_p, r.top_k, r.min_p, r.n_candidates, r.inserted) for r in (full, own)
        ]
        apart = (full.strategy != own.strategy, parameters[0] != parameters[1], full.token != own.token)
        counted = self.changed.setdefault(request, [0, 0, 0])
        for i, differs in enumerate(apart):
            counted[i] += differs

    def table(self, requests: Sequence[str]) -> np.ndarray:
        """Counts by reply: tokens and the three kinds of change, [replies, 4]."""
        return np.array(
            [[self.tokens[r], *self.changed[r]] for r in requests if r in self.tokens], dtype=float
        )


@contextmanager
def watched(core: EngineCore, seen: Seen) -> Iterator[None]:
    """Shows every forward's output with what was drawn of it."""
    sampler: Any = core._sampler
    plain = sampler.sample

    def sample(output: ForwardOutput | None) -> list[Drawn]:
        drawn: list[Drawn] = plain(output)
        if output is not None:
            seen(output, drawn)
        return drawn

    sampler.sample = sample
    try:
        yield
    finally:
        del sampler.sample


def run(core: EngineCore, requests: Iterable[Request]) -> None:
    """Runs requests to their end, ROWS at a time."""
    waiting = iter(requests)
    running = 0
    while True:
        for request in itertools.islice(waiting, ROWS - running):
            core.add(request)
            running += 1
        if core.idle:
            return
        for output in core.step().outputs:
            if output.error:
                raise SystemExit(output.error)
            running -= output.finish_reason is not None


def mean_of(by_layer: Tensor, layers: Layers) -> Tensor:
    """The mean [B, 7] of some layers' signals [L, B, 7], summed as the native decoder sums."""
    total = torch.zeros_like(by_layer[0])
    for layer in layers:
        total = total + by_layer[layer]
    return total / len(layers)


class Measured:
    """The signals by layer of every token of the calibration, from which a profile of any layers is
    fitted."""

    def __init__(self, core: EngineCore) -> None:
        samples = read_samples(
            calibration_path(), core._committer._tokenizer, core.info.eos_token_ids, core.info.max_model_len
        )
        self._samples = [sample for sample in samples if sample.kind is None and sample.reply]
        self._rows: list[tuple[tuple[float | None, ...], Tensor, bool]] = []
        with watched(core, self._see):
            run(core, (self._request(i) for i in range(len(self._samples))))
        self._by_layer = torch.stack([by_layer for _, by_layer, _ in self._rows], 1)
        self._ambiguous = torch.tensor([ambiguous for _, _, ambiguous in self._rows])
        self._logits = torch.tensor([signals[:2] for signals, _, _ in self._rows], dtype=torch.float64)

    def _request(self, number: int) -> Request:
        sample = self._samples[number]
        sampling = SamplingParams(1.0, seed=number, max_tokens=len(sample.reply))
        policy = PolicyConfig(policy="fixed")
        return Request(
            str(number), sample.prompt, sampling, policy, time.monotonic(), replayed_token_ids=sample.reply
        )

    def _see(self, output: ForwardOutput, drawn: list[Drawn]) -> None:
        for row, (sequence, one) in enumerate(zip(output.sequences, drawn, strict=True)):
            sample = self._samples[int(sequence.request.request_id)]
            ambiguous = sequence.reply.length in sample.ambiguous
            self._rows.append((one.token.signals, output.by_layer[:, row].clone(), ambiguous))

    def profile(self, model_hash: str, layers: Layers) -> Profile:
        """The profile of some layers."""
        signals = mean_of(self._by_layer, layers).double()
        values = torch.cat([self._logits, signals], 1)
        measured = MeasuredTokens(values.nan_to_num(), ~values.isnan(), self._ambiguous)
        return fit(
            measured,
            model_hash=model_hash,
            data_hash="",
            layers=layers,
            date=datetime.date.today().isoformat(),
            clarify_text="Which one do you mean?",
        )


class Again:
    """Decides every token of a run again, once for each choice of layers."""

    def __init__(self, core: EngineCore, profiles: dict[Layers, Profile]) -> None:
        self._core, self._profiles = core, profiles
        self._laid_out: tuple[Any, dict[Layers, SampledBatch]] = ((), {})
        self.counts = {layers: Counts() for layers in profiles}

    def __call__(self, output: ForwardOutput, drawn: list[Drawn]) -> None:
        sampler: Any = self._core._sampler
        sequences = output.sequences
        if self._laid_out[0] != sequences:
            rows = [(s.request.sampling, s.request.policy) for s in sequences]
            streams = [s.philox_stream for s in sequences]
            batches = {
                layers: SampledBatch(rows, profile, streams=streams)
                for layers, profile in self._profiles.items()
            }
            self._laid_out = sequences, batches
        columns, _ = step_columns([s.reply for s in sequences], sampler._clarifying)
        everything = self._core.info.monitored_layers
        rows_of = {}
        for layers, batch in self._laid_out[1].items():
            packed = batch.step(output.logits, mean_of(output.by_layer, layers), None, columns)
            rows_of[layers] = unpack(packed, batch.candidates)
        for i, (sequence, one) in enumerate(zip(sequences, drawn, strict=True)):
            full = rows_of[everything][i]
            if sequence.reply.pending or sequence.reply.names_next:
                continue  # no decision: the token was given
            if full.token != one.token.token_id:
                raise SystemExit("all layers decide otherwise than the engine: this comparison is broken")
            for layers, rows in rows_of.items():
                self.counts[layers].add(sequence.request.request_id, full, rows[i])


def prompts_of(model: str, core: EngineCore, count: int, seed: int) -> list[tuple[int, ...]]:
    """Prompts of pico's grammar that calibration never saw, or questions of the evaluation's test half."""
    tokenizer = core._committer._tokenizer
    if model == "pico":
        texts = [example.user for example in unseen_examples(max(1, count // 20), seed)]
        texts += [example.user for example in unseen_examples(count, seed + 1, ["ambiguous"])]
    else:
        items = [item for item in read_tasks(find_tasks(TASKS)) if item.split == "test"]
        texts = [item.question for item in limited(items, count, seed)]
    return [
        tuple(tokenizer.apply_chat_template([{"role": "user", "content": t}], add_generation_prompt=True))
        for t in texts
    ]


def choices(count: int, size: int, draws: int, seed: int) -> list[Layers]:
    """Random choices of ``size`` of ``count`` layers, all different; every one where there are no more."""
    if math.comb(count, size) <= draws:
        return list(itertools.combinations(range(count), size))
    rng, found = random.Random(seed), set()
    while len(found) < draws:
        found.add(tuple(sorted(rng.sample(range(count), size))))
    return sorted(found)


def decisions(args: argparse.Namespace) -> None:
    """Prints the share of decisions that change, by preset and choice of layers."""
    place = str(model_path()) if args.model == "pico" else args.model
    options = EngineOptions(place, device="cpu", threads=args.threads, max_num_seqs=ROWS, calibrate=False)
    core, opened = open_core(options, default_cache())
    source = opened.loaded.source
    count = len(core.info.monitored_layers)
    shares = {
        s: inspected_layers(args.model, source.folder, source.model_hash, count, s) for s in args.shares
    }
    sets = {s: choices(count, len(own), args.draws, args.seed) for s, own in shares.items()}
    everything = tuple(range(count))
    wanted = {everything, *shares.values(), *itertools.chain(*sets.values())}
    shipped = opened.profile
    if shipped is None:
        raise SystemExit("the model has no profile: calibrate it first")
    if args.model == "pico":
        measured = Measured(core)
        profiles = {layers: measured.profile(source.model_hash, layers) for layers in wanted}
        same = profiles[everything].thresholds == dict(shipped.thresholds)
        print(f"the profile of all layers has the shipped one's cut points: {'yes' if same else 'NO'}")
    else:
        # its discriminant reads the first token alone, its formulas no attention: layers change nothing
        profiles = {layers: replace(shipped, layers=layers) for layers in wanted}
    prompts = prompts_of(args.model, core, args.prompts, args.seed)
    for preset, temperature in (CASES[name] for name in args.cases):
        again = Again(core, profiles)
        policy = PolicyConfig(policy="entropix", preset=preset)  # type: ignore[arg-type]
        core.set_profile(profiles[everything])
        requests = [
            Request(
                f"p{i}",
                prompt,
                SamplingParams(
                    temperature,
                    seed=args.seed + i,
                    max_tokens=args.tokens,
                    stop_token_ids=core.info.eos_token_ids,
                ),
                policy,
                time.monotonic(),
            )
            for i, prompt in enumerate(prompts)
        ]
        with watched(core, again):
            run(core, requests)
        report(preset, temperature, again, shares, sets, [r.request_id for r in requests], args.seed)


def report(
    preset: str,
    temperature: float | None,
    again: Again,
    shares: dict[float, Layers],
    sets: dict[float, list[Layers]],
    requests: Sequence[str],
    seed: int,
) -> None:
    """Prints a table: changed decisions in percent, of auto with an interval, of random choices with
    theirs."""
    first = next(iter(again.counts.values()))
    tokens = sum(first.tokens.values())
    named = "none" if temperature is None else f"{temperature:g}"
    print(
        f"\npreset {preset}, temperature {named}: {tokens} decided tokens of {len(first.tokens)} replies",
        flush=True,
    )
    header("layers", "which", "changed", "auto, % [95 % over replies]", "random: mean % [95 % of draws]",
           "draws that change more")  # fmt: skip
    drawn = np.random.default_rng(seed).multinomial(
        len(first.tokens), np.full(len(first.tokens), 1 / len(first.tokens)), size=2000
    )
    for share, own in shares.items():
        table = again.counts[own].table(requests)
        others = np.array([again.counts[layers].table(requests).sum(0) for layers in sets[share]])
        for column, name in enumerate(("strategy", "parameters", "token"), 1):
            value = 100 * table[:, column].sum() / tokens
            low, high = np.percentile(100 * (drawn @ table[:, column]) / (drawn @ table[:, 0]), [2.5, 97.5])
            random_ = 100 * others[:, column] / others[:, 0]
            below, above = np.percentile(random_, [2.5, 97.5])
            more = int((random_ > value + 1e-12).sum())
            print(
                f"| {len(own)} | {','.join(map(str, own))} | {name} | {value:.2f} [{low:.2f}, {high:.2f}] | "
                f"{random_.mean():.2f} [{below:.2f}, {above:.2f}] | {more} of {len(random_)} |"
            )


def cost(args: argparse.Namespace) -> None:
    """Prints the time of a step that monitors fewer layers, of its neighbours' that monitor all."""
    place = str(model_path()) if args.model == "pico" else args.model
    options = EngineOptions(
        place, device="cpu", threads=args.threads, max_num_seqs=max(args.rows), calibrate=False
    )
    core, opened = open_core(options, default_cache())
    source = opened.loaded.source
    count = len(core.info.monitored_layers)
    sets = {
        s: frozenset(inspected_layers(args.model, source.folder, source.model_hash, count, s))
        for s in args.shares
    }
    everything = frozenset(range(count))
    runner: Any = core._runner
    header("rows", "layers", "clock", "of a step with all", "quartiles", "step with all, ms", "pairs")
    for rows in args.rows:
        ratios: dict[tuple[float, int], list[float]] = {}
        seconds: list[float] = []
        for round_ in range(args.rounds):
            runner._monitored = everything
            fill(core, rows, args.length, False, round_)
            kinds = [None, *sets]
            for number in range((args.length - 16) // len(kinds)):
                found = {}
                for kind in random.Random(number).sample(kinds, len(kinds)):
                    runner._monitored = everything if kind is None else sets[kind]
                    found[kind] = step(core)
                for share in sets:
                    for clock in (0, 1):
                        ratios.setdefault((share, clock), []).append(found[share][clock] / found[None][clock])
                seconds.append(found[None][1])
            runner._monitored = everything
            while not core.idle:
                core.step()
        for (share, clock), values in sorted(ratios.items(), reverse=True):
            low, middle, high = statistics.quantiles(values, n=4)
            print(
                f"| {rows} | {len(sets[share])} of {count} | {('processor', 'wall')[clock]} | {middle:.3f} | "
                f"{low:.3f} to {high:.3f} | {1e3 * statistics.median(seconds):.2f} | {len(values)} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pico", help="pico, or what `entropick serve` takes")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--draws", type=int, default=100, help="random choices of layers for each share")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), help="preset and temperature"
    )
    parser.add_argument("--tokens", type=int, default=48, help="of a reply")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    with torch.inference_mode():
        (cost if args.cost else decisions)(args)


if __name__ == "__main__":
    main()
