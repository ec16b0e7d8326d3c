"""The same sampled request alone, among 15 random neighbours and after a restart, to the bit; and the cost.

Prompts, lengths, policies, presets and seeds vary; the engine that is busy shares prompts' beginnings, cuts
prompts into chunks and begins a request whenever one ends, so that every request meets 15 others at random
points of theirs. Every row of logits is compared by its digest, every token by all of its figures. A text
that differs is explained: how far the two runs' signals are apart at its first token that differs, and how
close the request's uniform number is to a step of the distribution (float64, same prefix).

Before that, the busy run twice in processes of their own: one that compiles the native code (an empty cache)
and one that loads it.

    python benchmarks/determinism.py [--requests 500] [--model DIR] [--threads N]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from _common import unseen_examples
from entropick_kernels.sample import philox_uniform
from entropick_kernels.sample.reference import filter_probabilities_reference
from entropick_pico import model_path
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.batch import Batch
from entropick_server.engine.embedded.cpu_threads import default_threads
from entropick_server.engine.embedded.forward import ForwardOutput
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.embedded.startup import build
from entropick_server.engine.profiles import default_cache, find_profile
from entropick_server.engine.types import EngineOptions, Request, Token

AT_ONCE = 16
MODES: dict[str, dict[str, Any]] = {
    "--batch-invariant": {"batch_invariant": True},
    "default": {},
    "default, torch decoder": {"decoder": "torch"},
}


@dataclass
class Told:
    """What became of one request."""

    tokens: list[Token] = field(default_factory=list)
    digests: dict[int, bytes] = field(default_factory=dict)
    """of the logits of each position"""


class Observed:
    """An engine core in this thread that keeps a digest of every row of logits."""

    def __init__(self, options: EngineOptions) -> None:
        loaded = load_model(options)
        layers = loaded.info.monitored_layers
        profile = find_profile(None, loaded.source.folder, default_cache(), loaded.source.model_hash, layers)
        self.core = build(loaded, options, profile)
        self.tokenizer = loaded.tokenizer
        self.calibrated = profile is not None
        self.told: dict[str, Told] = {}
        runner: Any = self.core._runner
        forward = runner.forward

        def observed_forward(batch: Batch) -> ForwardOutput | None:
            measured: ForwardOutput | None = forward(batch)
            if measured is not None and self.told:
                for row, logits in zip(measured.sequences, measured.logits, strict=True):
                    digest = hashlib.blake2b(logits.numpy().tobytes(), digest_size=16).digest()
                    self.told[row.request.request_id].digests[len(row.tokens)] = digest
            return measured

        runner.forward = observed_forward

    def run(self, requests: Iterator[Request], at_once: int) -> dict[str, Told]:
        """All requests, always ``at_once`` at a time while there are any."""
        self.told = {}
        running = 0
        while True:
            while running < at_once and (request := next(requests, None)) is not None:
                self.told[request.request_id] = Told()
                self.core.add(request)
                running += 1
            if not running:
                return self.told
            for output in self.core.step().outputs:
                if output.error:
                    raise RuntimeError(output.error)
                self.told[output.request_id].tokens += output.tokens
                running -= output.finish_reason is not None


def make_requests(engine: Observed, count: int, seed: int, max_tokens: int) -> list[Request]:
    """Sampled requests of all kinds; some begin like others."""
    rng = random.Random(seed)
    examples = unseen_examples(count // 8 + 1, seed)
    presets = ("calibrated", "seed") if engine.calibrated else ("seed",)
    requests: list[Request] = []
    for i in range(count):
        user = " ".join(e.user for e in rng.choices(examples, k=rng.choice((1, 1, 1, 2, 4, 12))))
        if i and rng.random() < 0.3:
            user = f"{rng.choice(requests[-50:]).request_id.partition(':')[2]} {user}"
        ids = engine.tokenizer.apply_chat_template(
            [{"role": "user", "content": user}], add_generation_prompt=True
        )
        policy = rng.choice((PolicyConfig(policy="fixed"), *(PolicyConfig(preset=p) for p in presets)))  # type: ignore[arg-type]
        sampling = SamplingParams(
            seed=rng.getrandbits(62),
            max_tokens=rng.randint(max_tokens // 4, max_tokens),
            temperature=rng.choice((0.7, 1.0, 1.3)),
            top_p=rng.choice((1.0, 0.9)),
            stop_token_ids=engine.core.info.eos_token_ids if i % 2 else (),
        )
        room = engine.core.info.max_model_len - max_tokens
        requests.append(Request(f"{i}:{user}", tuple(ids[-room:]), sampling, policy, time.monotonic()))
    return requests


def busy(requests: Sequence[Request], seed: int) -> Iterator[Request]:
    """The requests in any order, and behind them others, so that the last ones are not alone either."""
    rng = random.Random(seed)
    yield from rng.sample(requests, len(requests))
    for i in range(4 * AT_ONCE):
        yield replace(rng.choice(requests), request_id=f"behind {i}")


def boundary_gap(model_dir: str, prefix: list[int], token: Token, seed: int, position: int) -> float:
    """Distance of the request's uniform number to the nearest step of its CDF, in probability."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    with torch.inference_mode():
        logits = model(torch.tensor([prefix])).logits[0, -1]
    p = torch.softmax(logits / max(token.parameters.temperature, 1e-9), -1).numpy()
    kept = filter_probabilities_reference(
        p, token.parameters.top_k, token.parameters.top_p, token.parameters.min_p
    )
    cdf = torch.as_tensor(kept).cumsum(-1)
    u = philox_uniform(*(torch.tensor(x) for x in (seed, position, 0, 0)))
    return float((cdf - u).abs().min())


def explain(model_dir: str, request: Request, a: list[Token], b: list[Token]) -> str:
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x.token_id != y.token_id), -1)
    if at < 0:
        return "one is a prefix of the other"
    x, y = a[at], b[at]
    apart = max(
        abs(s - t) for s, t in zip(x.signals, y.signals, strict=True) if s is not None and t is not None
    )
    prefix = [*request.prompt_token_ids, *(t.token_id for t in a[:at])]
    gap = boundary_gap(model_dir, prefix, x, request.sampling.seed, at)
    return (
        f"token {at}: {x.token_id} / {y.token_id}, strategy {x.strategy} / {y.strategy}, "
        f"signals at most {apart:.1e} apart (surprisal included), uniform {gap:.1e} from a step of the CDF"
    )


def tell(
    name: str, requests: Sequence[Request], first: dict[str, Told], second: dict[str, Told]
) -> list[Request]:
    """Prints how much of two runs differs and returns the requests whose texts do."""
    rows = logits = tokens = 0
    different = []
    for request in requests:
        a, b = first[request.request_id], second[request.request_id]
        same = 0
        for x, y in zip(a.tokens, b.tokens, strict=False):
            if x.token_id != y.token_id:
                break
            same += 1
        if same < max(len(a.tokens), len(b.tokens)):
            different.append(request)
        # behind the first other token the two are different texts
        places = range(len(request.prompt_token_ids), len(request.prompt_token_ids) + same)
        rows += same
        logits += sum(a.digests[at] != b.digests[at] for at in places)
        tokens += sum(x != y for x, y in zip(a.tokens[:same], b.tokens[:same], strict=True))
    print(
        f"{name}: of {len(requests)} texts {len(different)} differ; of {rows} rows {logits} have other bits "
        f"in their logits, {tokens} in a signal, a probability or a parameter",
        flush=True,
    )
    return different


def compare(name: str, options: EngineOptions, args: argparse.Namespace) -> None:
    """One mode: all requests alone, without a prefix cache, and all of them busy, with it."""
    alone = Observed(replace(options, enable_prefix_caching=False))
    crowd = Observed(replace(options, max_num_batched_tokens=128))
    requests = make_requests(alone, args.requests, args.seed, args.max_tokens)
    first = {r.request_id: alone.run(iter([r]), 1)[r.request_id] for r in requests}
    second = crowd.run(busy(requests, args.seed), AT_ONCE)
    for request in tell(name, requests, first, second)[: args.explain]:
        name = request.request_id
        print("   ", explain(options.model, request, first[name].tokens, second[name].tokens), flush=True)


def write_start(options: EngineOptions, args: argparse.Namespace) -> None:
    """Writes the requests and their busy run in a new process, and how long its start took."""
    begin = time.perf_counter()
    crowd = Observed(replace(options, batch_invariant=True))
    seconds = time.perf_counter() - begin
    requests = make_requests(crowd, args.requests, args.seed, args.max_tokens)
    told = crowd.run(busy(requests, args.seed), AT_ONCE)
    args.write_start.write_bytes(pickle.dumps((requests, told, seconds)))


def compare_starts() -> None:
    """A process that compiles the native code and, after it, one that loads that code from disk."""
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            file = Path(folder) / "start.pickle"
            subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--write-start", str(file)],
                env=os.environ | {"NUMBA_CACHE_DIR": folder},
                check=True,
            )
            starts.append(pickle.loads(file.read_bytes()))
    (requests, cold, compiling), (_, warm, loading) = starts
    tell(f"cold start ({compiling:.1f} s) and warm start ({loading:.1f} s)", requests, cold, warm)


def price(options: EngineOptions, args: argparse.Namespace) -> None:
    """Wall time of the modes in turns: one step with a prompt of 480, and steps of 16 rows."""
    engines = {
        name: Observed(replace(options, **mode, enable_prefix_caching=False)) for name, mode in MODES.items()
    }
    rng = random.Random(args.seed)
    times: dict[tuple[str, str], list[float]] = {}
    vocab = next(iter(engines.values())).core.info.vocab_size
    for round_ in range(args.rounds + 1):
        prompts = [tuple(rng.randrange(vocab) for _ in range(480)) for _ in range(AT_ONCE)]
        for name, engine in engines.items():
            sampling = SamplingParams(seed=1, max_tokens=40, ignore_eos=True)
            for i, prompt in enumerate(prompts):
                begin = time.perf_counter()
                engine.told = {}
                engine.core.add(Request(f"{i}", prompt, replace(sampling, max_tokens=1), PolicyConfig(), 0.0))
                engine.core.step()
                if round_:
                    times.setdefault((name, "prefill"), []).append(time.perf_counter() - begin)
            for i, prompt in enumerate(prompts):
                engine.core.add(Request(f"{i}", prompt[:20], sampling, PolicyConfig(), 0.0))
            engine.core.step()
            while not engine.core.idle:
                begin = time.perf_counter()
                engine.core.step()
                if round_:
                    times.setdefault((name, "decode"), []).append(time.perf_counter() - begin)
    print(f"\n| median ms a step, {args.rounds} rounds in turns | prompt of 480 | 16 rows |\n|---|---|---|")
    middle = {key: 1e3 * statistics.median(values) for key, values in times.items()}
    off = {phase: middle["default", phase] for phase in ("prefill", "decode")}
    for name in MODES:
        cells = (f"{middle[name, p]:.2f} ({middle[name, p] / off[p]:.2f})" for p in ("prefill", "decode"))
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--explain", type=int, default=5, help="texts that differ to explain, in each mode")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--model")
    parser.add_argument("--write-start", type=Path, help="only write the busy run, to this file")
    args = parser.parse_args()
    threads = args.threads or default_threads()
    torch.set_num_threads(threads)
    options = EngineOptions(
        model=args.model or str(model_path()), device="cpu", threads=threads, max_num_seqs=AT_ONCE
    )
    if args.write_start:
        with torch.inference_mode():
            write_start(options, args)
        return
    print(
        f"{Path(options.model).name}, {threads} threads, each request alone and among {AT_ONCE - 1} others\n"
    )
    compare_starts()
    with torch.inference_mode():
        for name, mode in MODES.items():
            compare(name, replace(options, **mode), args)
        price(options, args)


if __name__ == "__main__":
    main()
