"""Token costs and G over HTTP: every engine and runner against a plain eager pass of transformers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from entropick_kernels.attention_stats import reference as heads
from entropick_pico import model_path
from entropick_sampler.genuineness import reference

SHORT = (1, 20, 30, 40, 50)
LONG = (1, *range(20, 1600, 5))
"""more tokens than a block of vLLM's cache on a CPU holds"""
FIGURES = (
    *("genuineness", "entropy_variance", "collapse_rate", "genuineness_seed"),
    *("token_cost", "token_cost_relative", "sink_mass"),
)
COSTED = {"policy": "fixed", "genuineness": "seed", "telemetry": "full"}
WITHIN = 1e-4


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    """The shipped model in transformers, in float64."""
    loaded = AutoModelForCausalLM.from_pretrained(
        model_path(), dtype=torch.float64, attn_implementation="eager"
    )
    with torch.inference_mode():
        yield loaded.eval()


def asked(server: str, prompt: tuple[int, ...], **fields: Any) -> dict[str, Any]:
    body = {"model": "pico", "prompt": list(prompt), "seed": 7, "ignore_eos": True, **fields}
    answer = httpx.post(f"{server}/v1/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def expected(model: Any, prompt: tuple[int, ...], reply: list[int]) -> list[dict[str, float]]:
    """The figures behind each token of the reply, in float64; NaN for none."""
    text = [*prompt, *reply]
    found = model(torch.tensor([text]), output_attentions=True)
    logprobs = found.logits[0].log_softmax(-1)
    bits = np.array([0.0, *(float(-logprobs[at, text[at + 1]]) / math.log(2) for at in range(len(text) - 1))])
    attention = torch.stack([of_layer[0] for of_layer in found.attentions]).numpy()
    entropy, costs, relative, sinks, keys = [], [], [], [], []
    for step in range(len(reply)):
        n = len(prompt) + step
        p = attention[:, :, n - 1, :n]
        with np.errstate(divide="ignore"):
            entropy.append(heads.head_entropy(np.log(p)))
        keys.append(np.full(len(p), n))
        cost = p @ bits[:n]
        # the prompt's surprisals are known behind the step that ends it
        costs.append(cost if step else np.full_like(cost, np.nan))
        relative.append(costs[-1].ravel() / bits[:n].mean())
        sinks.append(p[..., 0].ravel() if step else np.full(cost.size, np.nan))
    wanted = []
    for n in range(1, len(reply) + 1):
        h, k = np.array(entropy[:n]), np.array(keys[:n])
        wanted.append(
            {
                "genuineness": reference.genuineness(h, k),
                "entropy_variance": reference.entropy_variance(h, k),
                "collapse_rate": reference.collapse_rate(h, k),
                "genuineness_seed": reference.genuineness_seed(h),
                "token_cost": reference.token_cost(np.array(costs[:n])),
                "token_cost_relative": reference.token_cost_relative(np.array(relative[:n])),
                "sink_mass": reference.sink_mass(np.array(sinks[:n])),
            }
        )
    return wanted


def check(model: Any, prompt: tuple[int, ...], answer: dict[str, Any]) -> None:
    """Every choice, every token, every figure."""
    for choice in answer["choices"]:
        rows = choice["entropick"]["tokens"]
        wanted = expected(model, prompt, [row["token_id"] for row in rows])
        for row, of_row in zip(rows, wanted, strict=True):
            for name in FIGURES:
                got = row["signals"].get(name)
                assert (got is None) == math.isnan(of_row[name]), (name, row["index"])
                if got is not None:
                    assert got == pytest.approx(of_row[name], rel=WITHIN, abs=WITHIN), (name, row["index"])
        assert rows[-1]["signals"]["token_cost"] is not None


@pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["short", "long"])
def test_the_figures_are_those_of_an_eager_pass(server: str, model: Any, prompt: tuple[int, ...]) -> None:
    """Longer than a window; beside it, and before it, requests for the same prompt without token costs."""
    plain = asked(server, prompt, max_tokens=4)
    answer = asked(server, prompt, max_tokens=80, temperature=1.0, entropick=COSTED)
    check(model, prompt, answer)
    assert plain["choices"][0]["finish_reason"] == "length"
    scores = {"policy": "fixed", "telemetry": "tokens", "genuineness": "scores"}
    again = asked(server, prompt, max_tokens=80, temperature=1.0, entropick=scores)
    hit = again["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert (hit > 0) == (prompt is LONG)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, "computed for its surprisals"
    rows = again["choices"][0]["entropick"]["tokens"]
    assert all(row["signals"].get("token_cost") is None for row in rows)
    ids = [[row["token_id"] for row in a["choices"][0]["entropick"]["tokens"]] for a in (answer, again)]
    assert ids[0] == ids[1]


def test_branches_and_choices_leave_them_unchanged(server: str, model: Any) -> None:
    """The kept branches are the reply, and on vLLM segments that read the prefix cache go on behind them."""
    branch = {"width": 3, "depth": 5, "budget": 16.0, "on": ["explore", "adaptive", "high_uncertainty"]}
    settings = {**COSTED, "policy": "entropix", "preset": "seed", "branch": branch}
    answer = asked(server, LONG, max_tokens=40, n=2, entropick=settings)
    check(model, LONG, answer)
    rows = [row for choice in answer["choices"] for row in choice["entropick"]["tokens"]]
    opened = [row for row in rows if row.get("branches")]
    assert opened
    assert any(other["chosen"] for row in opened for other in row["branches"][1:])
