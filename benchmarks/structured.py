"""Structured output: do random schemas hold, how soon is the first mask there, and what does a token cost?

``valid``: random schemas (nested, enums, arrays, numbers, patterns, unicode, $ref) at temperature 1 on the
shipped model and on a model of its shape with random weights, with and without branches, two choices each:
every reply that came to its end must validate. ``time``: seconds from a schema's text to its first mask, and
the time of a token under a schema against no schema, rounds in turns within one process.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import torch

from entropick_pico import model_path
from entropick_sampler.branch_config import BRANCH_STRATEGIES, BranchConfig
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.loader import Loaded, load_model
from entropick_server.engine.grammar.compiler import GrammarCompiler
from entropick_server.engine.grammar.spec import Grammar
from entropick_server.engine.types import EngineOptions, FinishReason, Request

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from random_schemas import SchemaMaker

PLAIN = PolicyConfig(preset="seed", overrides={"clarify_budget": 0})
POLICIES = {
    "one reply": PLAIN,
    "branches": replace(PLAIN, branch=BranchConfig(width=3, depth=5, on=BRANCH_STRATEGIES, budget=4.0)),
}
Replies = dict[str, tuple[bytes, FinishReason, int]]


def opened(random_weights: bool) -> tuple[EngineCore, Loaded]:
    options = EngineOptions(model=str(model_path()), device="cpu", threads=1)
    loaded = load_model(options)
    if random_weights:
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                parameter.normal_(0.0, 0.15 if parameter.dim() > 1 else 0.02)
    return EngineCore(loaded, options, None), loaded


def compiler_of(loaded: Loaded) -> GrammarCompiler:
    return GrammarCompiler(loaded.tokenizer, loaded.info.vocab_size, loaded.info.eos_token_ids)


def run(core: EngineCore, tokenizer: Any, requests: list[Request], at_once: int = 16) -> Replies:
    """The text, the end and the tokens of every request."""
    waiting = list(reversed(requests))
    texts: dict[str, list[int]] = {request.request_id: [] for request in requests}
    ends: dict[str, FinishReason] = {}
    while len(ends) < len(requests):
        while waiting and len(texts) - len(waiting) - len(ends) < at_once:
            core.add(waiting.pop())
        for output in core.step().outputs:
            texts[output.request_id] += [token.token_id for token in output.tokens]
            if output.finish_reason is not None:
                ends[output.request_id] = output.finish_reason
    return {
        name: (b"".join(tokenizer.token_bytes(i) or b"" for i in ids), ends[name], len(ids))
        for name, ids in texts.items()
    }


def request(name: str, policy: PolicyConfig, seed: int, tokens: int, prompt: tuple[int, ...]) -> Request:
    sampling = SamplingParams(temperature=1.0, seed=seed, max_tokens=tokens, stop_token_ids=(3,))
    return Request(name, prompt, sampling, policy, time.monotonic())


def check(count: int, tokens: int) -> bool:
    """Prints how many replies validate. Returns whether none that came to its end fails."""
    print("model            replies      schemas  ended  valid")
    sound = True
    for model in ("pico", "random weights"):
        core, loaded = opened(model == "random weights")
        compiler = compiler_of(loaded)
        for how, policy in POLICIES.items():
            maker = SchemaMaker(14)
            schemas = [maker.schema() for _ in range(count)]
            requests = []
            for n, schema in enumerate(schemas):
                text = json.dumps(schema, ensure_ascii=False)
                first = request(f"{n}/0", policy, n, tokens, (2, 5 + n % 90, 9))
                first = replace(first, grammar=compiler.compile(Grammar("json_schema", text)), group=f"g{n}")
                requests += [first, replace(first, request_id=f"{n}/1", choice=1)]
            ended = valid = 0
            for name, (text, reason, _) in run(core, loaded.tokenizer, requests).items():
                if reason is not FinishReason.STOP:
                    sound = sound and reason is FinishReason.LENGTH
                    continue
                ended += 1
                try:
                    schema = schemas[int(name.partition("/")[0])]
                    jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)
                    valid += 1
                except (ValueError, jsonschema.ValidationError) as error:
                    print(f"  {name}: {str(error).partition(chr(10))[0]} in {text!r}")
            print(f"{model:16s} {how:12s} {count:7d} {ended:6d} {valid:6d}", flush=True)
            sound = sound and ended == valid
    return sound


def first_masks(rounds: int) -> None:
    """Prints how long it takes from a schema's text to its first mask."""
    _, loaded = opened(False)
    began = time.perf_counter()
    compiler = compiler_of(loaded)
    compiler.compile(Grammar("json_object"))
    print(f"tokens of the model and the first grammar: {1e3 * (time.perf_counter() - began):.1f} ms, once")
    maker, seconds = SchemaMaker(2), []
    for _ in range(rounds):
        text = json.dumps(maker.schema(), ensure_ascii=False)
        began = time.perf_counter()
        compiler.compile(Grammar("json_schema", text))
        seconds.append(time.perf_counter() - began)
    marks = statistics.quantiles(seconds, n=20)
    middle, most = 1e3 * statistics.median(seconds), 1e3 * marks[-1]
    print(f"a schema to its first mask: median {middle:.2f} ms, 95 % {most:.2f} ms")


def token_cost(rounds: int, rows: int, tokens: int) -> None:
    """Prints the time of a token under a schema against no schema, the same number of rows."""
    core, loaded = opened(False)
    schema = {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 40}, "number": {"type": "integer"}},
            "required": ["name", "number"],
            "additionalProperties": False,
        },
        "minItems": 200,
    }
    grammar = compiler_of(loaded).compile(Grammar("json_schema", json.dumps(schema)))
    ratios = []
    for n in range(rounds):
        taken = {}
        for kind in ("plain", "schema") if n % 2 else ("schema", "plain"):
            requests = [request(f"{kind}{n}/{i}", PLAIN, i, tokens, (2, 5 + i, 9)) for i in range(rows)]
            # nothing may end early
            requests = [replace(r, sampling=replace(r.sampling, stop_token_ids=())) for r in requests]
            if kind == "schema":
                requests = [replace(r, grammar=grammar) for r in requests]
            began = time.perf_counter()
            said = sum(reply[2] for reply in run(core, loaded.tokenizer, requests).values())
            taken[kind] = (time.perf_counter() - began) / said
        ratios.append(taken["schema"] / taken["plain"])
    ratios.sort()
    half = 1.25 * statistics.stdev(ratios) / math.sqrt(len(ratios)) * 1.96 if len(ratios) > 1 else 0.0
    print(f"a token under a schema against none, {rows} rows: {statistics.median(ratios):.3f} ± {half:.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemas", type=int, default=500, help="0: no validity check")
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15, help="0: no timing")
    options = parser.parse_args()
    sound = True
    with torch.inference_mode():
        if options.schemas:
            sound = check(options.schemas, options.tokens)
        if options.rounds:
            first_masks(10 * options.rounds)
            for rows in (1, 16):
                token_cost(options.rounds, rows, 96)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
