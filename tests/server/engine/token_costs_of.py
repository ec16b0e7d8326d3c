"""Prints the token costs by head of a short reply of the shipped model, as JSON: ``KERNELS``."""

from __future__ import annotations

import json
import sys

import torch

from entropick_pico import model_path
from entropick_sampler.params import PolicyConfig, SamplingParams
from entropick_server.engine.embedded.core import EngineCore
from entropick_server.engine.embedded.loader import load_model
from entropick_server.engine.types import EngineOptions, Request


def main() -> None:
    options = EngineOptions(model=str(model_path()), device="cpu", threads=1, kernels=sys.argv[1])
    loaded = load_model(options)
    policy = PolicyConfig(policy="fixed", telemetry="full", genuineness=True)
    prompt = loaded.tokenizer.encode("What is the capital of Falnia?", add_special_tokens=True)
    sampling = SamplingParams(max_tokens=4, ignore_eos=True, seed=3)
    tokens = []
    with torch.inference_mode():
        core = EngineCore(loaded, options, None)
        core.add(Request("a", tuple(prompt), sampling, policy, arrival=0.0))
        while not core.idle:
            for output in core.step().outputs:
                tokens += output.tokens
    costs = [None if token.detail is None else token.detail.token_cost for token in tokens]
    print(json.dumps({"tokens": [token.token_id for token in tokens], "costs": costs}))


if __name__ == "__main__":
    main()
